// A job in the list: its picture, its phases as a row of states, its error.

import { link } from "./api.js";
import { el, onceSeen } from "./dom.js";
import { ago, DEGRADED, MARKS, isOver, phaseSentence, secondsOf, seconds, stateOf } from "./words.js";

/** Pictures of files that this tab has uploaded, by job: seen before anything has come back. */
export const previews = new Map();

/** The row of states. */
export function phaseRow(job) {
  const phases = job.phases.length ? job.phases : [{ name: job.status, status: job.status }];
  return el(
    "ol.phases",
    { "aria-label": "Phases" },
    ...phases.map((phase) => {
      const state = stateOf(phase);
      const mark = el("span.mark", { "aria-hidden": "true" }, MARKS[state] ?? "?");
      if (phase.status === "running") mark.style.setProperty("--done", phase.progress ?? 0);
      const item = el("li", { "data-state": state, title: phaseSentence(phase) }, mark, el("span.name", { "aria-hidden": "true" }, phase.name));
      item.append(el("span.unseen", {}, phaseSentence(phase)));
      return item;
    }),
  );
}

/** What a job is called here: the file's name if this tab sent it, else the beginning of its id. */
export const titleOf = (job) => previews.get(job.id)?.name ?? job.id.slice(0, 8);

export function badge(job) {
  const state = stateOf(job);
  const made = el("span.badge", { "data-state": state }, `${MARKS[state]} ${job.status}`.trim());
  if (state !== "degraded") return made;
  made.title = DEGRADED;
  made.append(el("span.unseen", {}, `, ${DEGRADED}`));
  return made;
}

export const errorLine = (error) =>
  error ? el("p.bad", {}, el("code", {}, error.code), " ", error.detail) : null;

/** Why nothing of it runs now. */
export const waitLine = (job) => (job.waiting_on ? el("p.waits", {}, job.waiting_on) : null);

const thumbOf = (job) =>
  job.artifacts.find((made) => made.name === "thumb.webp") ?? job.artifacts.find((made) => made.name === "thumb.jpg");

/** A card; `update(job)` changes it in place, so that pictures do not flicker and focus stays. */
export function card(job, open) {
  const picture = el("img", { alt: "", hidden: true, decoding: "async" });
  const title = el("span.title");
  const facts = el("div.facts");
  const told = el("div.told");
  const button = el("button.open", { type: "button", onclick: () => open(current.id) }, el("span.frame", {}, picture), title);
  const element = el("li.card", {}, button, told, facts);
  let current = job;
  let shown = null;

  picture.addEventListener("load", () => (picture.hidden = false));
  picture.addEventListener("error", () => (picture.hidden = true));

  async function showThumb() {
    const thumb = thumbOf(current);
    if (!thumb || shown === thumb.url) return;
    shown = thumb.url;
    try {
      picture.src = await link(thumb.url);
    } catch {
      shown = null; // asked again at the next change
    }
  }

  function update(next) {
    current = next;
    element.dataset.state = stateOf(next);
    title.textContent = titleOf(next);
    button.setAttribute("aria-label", `${titleOf(next)}, ${next.status}: show details`);
    told.replaceChildren(phaseRow(next), ...[waitLine(next), errorLine(next.error)].filter(Boolean));
    const preview = previews.get(next.id);
    if (preview?.url && !shown && picture.src !== preview.url) picture.src = preview.url;
    if (thumbOf(next)) onceSeen(element, showThumb);
    tick();
  }

  /** The parts that change by themselves. */
  function tick() {
    const time = el("time.muted", { datetime: current.created_at }, ago(current.created_at));
    const spent = current.status === "queued" ? null : el("span.muted", {}, seconds(secondsOf(current)));
    facts.replaceChildren(...[badge(current), spent, time].filter(Boolean));
  }

  update(job);
  return { element, update, tick: () => isOver(current) || tick(), job: () => current };
}
