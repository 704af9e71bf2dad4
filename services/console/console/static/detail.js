// One job, looked at closely: before and after, phases with their seconds, facts, outputs, trace.

import { act, link } from "./api.js";
import { badge, errorLine, phaseRow, previews, titleOf, waitLine } from "./card.js";
import { byId, el } from "./dom.js";
import { versions } from "./versions.js";
import { bytes, DEGRADED, isOver, itemsText, MARKS, seconds, secondsOf, stateOf } from "./words.js";

const SHOWABLE = ["web.webp", "web.jpg"]; // the large variant, in a format that every browser shows

let open = null; // { id, job, body, live, over, acted } of the job that is shown

/** Shows a job. `acted(id, revision)` is called when it was asked to do something, with the decision that was made. */
export function show(job, acted) {
  const dialog = byId("detail");
  const body = el("div.body");
  const close = el("button.quiet", { type: "button", onclick: () => dialog.close() }, "Close");
  const head = el("header", {}, el("h2", { id: "detail-title" }, titleOf(job)), close);
  dialog.replaceChildren(head, body);
  open = { id: job.id, over: null, body, acted };
  update(job);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** Redraws when this is the job that is shown. Pictures and buttons are made once, and when the job is over. */
export function update(job) {
  if (open?.id !== job.id || JSON.stringify(open.job) === JSON.stringify(job)) return;
  open.job = job;
  if (open.over !== isOver(job)) {
    open.over = isOver(job);
    open.live = el("div");
    const others = isOver(job) ? versions(job, (other) => show(other, open.acted)) : null;
    open.body.replaceChildren(...[pictures(job), others, acts(job), open.live].filter(Boolean));
  }
  open.live.replaceChildren(
    ...[head(job), waitLine(job), errorLine(job.error), phases(job), outputs(job), facts(job)].filter(Boolean),
  );
}

export function closed() {
  open = null;
}

function pictures(job) {
  const made = SHOWABLE.map((name) => job.artifacts.find((it) => it.name === name)).find(Boolean);
  const preview = previews.get(job.id);
  if (!made) return preview?.url ? el("figure.compare", {}, el("img", { src: preview.url, alt: "The photo as it was uploaded" })) : null;

  const result = el("img", { alt: "The finished photo" });
  const before = el("img", { alt: "The photo as it was uploaded" });
  const cover = el("div.before", {}, before);
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "How much of the original to show" });
  const stage = el("div.stage", {}, result);
  stage.style.setProperty("--aspect", made.width / made.height);
  const figure = el("figure.compare", {}, stage);
  const split = () => stage.style.setProperty("--split", `${slider.value}%`);
  slider.addEventListener("input", split);
  before.addEventListener("load", () => {
    // Only now: a browser may be unable to show the original's format.
    split();
    stage.append(cover, slider);
    figure.append(el("figcaption.muted", {}, el("span", {}, "original"), el("span", {}, "finished")));
  });
  place(before, job);
  link(made.url).then((url) => (result.src = url), () => {});
  if (preview?.url) before.src = preview.url;
  else link(`/v1/jobs/${job.id}/artifacts/original`).then((url) => (before.src = url), () => {});
  return figure;
}

/** Lays the original so that the part that was kept by the crop lies exactly under the result. */
function place(before, job) {
  const [x, y, w, h] = job.phases.find((phase) => phase.name === "crop")?.facts?.box ?? [0, 0, 1, 1];
  before.style.width = `${100 / w}%`;
  before.style.height = `${100 / h}%`;
  before.style.left = `${(-100 * x) / w}%`;
  before.style.top = `${(-100 * y) / h}%`;
}

function head(job) {
  const copy = el("button.quiet", { type: "button", onclick: () => navigator.clipboard?.writeText(job.trace_id) }, "Copy");
  return pairs(
    ["Status", badge(job)],
    ["Job", el("code", {}, job.id)],
    ["Trace", job.trace_id && el("span", {}, el("code", {}, job.trace_id), " ", navigator.clipboard ? copy : null)],
    ["Pipeline", job.pipeline_version == null ? job.pipeline : `${job.pipeline}, version ${job.pipeline_version}`],
    ["Batch", job.batch_id && el("code", {}, job.batch_id)],
    ["Taken", seconds(secondsOf(job))],
  );
}

/** What can be asked of it: an open job to stop or to stand still, one that did not succeed to try again. */
function acts(job) {
  const again = job.status !== "succeeded" || job.degraded ? ["retry"] : [];
  const names = isOver(job) ? again : ["pause", "resume", "cancel"];
  if (!names.length) return null;
  const refused = el("p.bad", { role: "alert" });
  const { acted } = open;
  const ask = async (name) => {
    refused.replaceChildren();
    try {
      const { revision } = await act(job.id, name);
      await acted(job.id, revision);
    } catch (problem) {
      refused.replaceChildren(el("code", {}, problem.code ?? "UNFORESEEN"), " ", problem.message);
    }
  };
  const button = (name) =>
    el("button.quiet", { type: "button", onclick: () => ask(name) }, name[0].toUpperCase() + name.slice(1));
  return el("div.acts", {}, ...names.map(button), refused);
}

function phases(job) {
  if (!job.phases.length) return phaseRow(job);
  const state = (phase) => `${MARKS[stateOf(phase)]} ${phase.status}${phase.degraded ? ", degraded" : ""}`;
  const row = (phase) =>
    el(
      "tr",
      { "data-state": stateOf(phase) },
      el("th", { scope: "row" }, phase.name),
      el("td", { title: phase.degraded ? DEGRADED : null }, state(phase)),
      el("td.number", {}, timeOf(phase)),
      el("td", {}, phase.items ? itemsText(phase.items) : (phase.engine ?? ""), errorLine(phase.error)),
    );
  const head = ["Phase", "State", "Time", "Engine"].map((name) => el("th", { scope: "col" }, name));
  return section("Phases", el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...job.phases.map(row))));
}

function timeOf(phase) {
  if (phase.status === "running") return phase.progress == null ? "" : `${Math.round(phase.progress * 100)}%`;
  return phase.seconds == null ? "" : `${phase.seconds.toFixed(2)} s`;
}

function outputs(job) {
  if (!job.artifacts.length) return null;
  const item = (made) => {
    const size = made.width ? `${made.width} × ${made.height}, ` : "";
    const anchor = el("a", { target: "_blank", rel: "noopener" }, `${made.phase}/${made.name}`);
    if (isOver(job)) link(made.url).then((url) => (anchor.href = url), () => {});
    return el("li", {}, anchor, el("span.muted", {}, `${size}${bytes(made.size)}`));
  };
  return section("Outputs", el("ul.outputs", {}, ...job.artifacts.map(item)));
}

function facts(job) {
  const found = job.phases.filter((phase) => Object.keys(phase.facts ?? {}).length);
  if (!found.length) return null;
  const rows = (phase) => Object.entries(phase.facts).map(([name, value]) => [name.replaceAll("_", " "), factText(value)]);
  return section("Facts", ...found.flatMap((phase) => [el("h4", {}, phase.name), pairs(...rows(phase))]));
}

/** A fact in words: `0.9`, `none`, `sharp 0.9, tile 21`; a list of things by how many there are. */
function factText(value) {
  if (value === null) return "";
  if (Array.isArray(value)) {
    if (!value.length) return "none";
    return value.some((each) => typeof each === "object") ? `${value.length}` : value.map(factText).join(", ");
  }
  if (typeof value === "object") return Object.entries(value).map(([name, part]) => `${name} ${factText(part)}`).join(", ");
  return typeof value === "number" ? `${Number(value.toFixed(4))}` : `${value}`;
}

const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

function pairs(...rows) {
  return el("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
