// Files on their way in: dropped or chosen, two at a time, each with its bar.

import { readStyles, upload, uploadFields } from "./api.js";
import { previews } from "./card.js";
import { byId, el } from "./dom.js";

const AT_ONCE = 2; // see the connections in main.js

const waiting = [];
let busy = 0;

/** Wires the tray. `accepted(answer)` is called with each upload's answer. */
export function start(accepted) {
  const files = byId("files");
  const drop = document.querySelector(".drop");
  files.addEventListener("change", () => {
    take(files.files, accepted);
    files.value = "";
  });
  byId("tray").addEventListener("submit", (event) => event.preventDefault());

  // The whole window takes drops: a photo that misses the tray must not replace the page.
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!byId("room").hidden) take(event.dataTransfer.files, accepted);
  });

  byId("style").addEventListener("focus", () => offerStyles().catch(() => {}));
  const strength = byId("strength");
  byId("style").addEventListener("input", (event) => (byId("strength-row").hidden = !event.target.value.trim()));
  strength.addEventListener("input", () => (byId("strength-told").value = `${Math.round(strength.value * 100)}%`));
}

/** Offers what the API says it accepts; without an answer, only what is on the page. */
export async function offerOptions() {
  const { crop } = await uploadFields();
  byId("crop").replaceChildren(...crop.enum.map((aspect) => el("option", {}, aspect)));
}

/** Offers the styles that there are now: what each is, and how close photos come that it was not shown. */
async function offerStyles() {
  const offers = (await readStyles()).map(({ name, kind, version, facts }) => {
    const told = [kind, `version ${version}`, facts.psnr ? `${facts.psnr.toFixed(1)} dB` : ""];
    return el("option", { value: name }, told.filter(Boolean).join(", "));
  });
  byId("styles").replaceChildren(...offers);
}

function chosen() {
  const style = byId("style").value.trim();
  const options = { pipeline: "photo", crop: byId("crop").value };
  return style ? { ...options, style, style_strength: byId("strength").value } : options;
}

const DOCUMENTS = ["application/pdf"];

function take(files, accepted) {
  const photo = chosen();
  for (const file of files) {
    const options = DOCUMENTS.includes(file.type) ? { pipeline: "document" } : photo;
    const bar = el("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    const row = el("li", {}, el("span.title", {}, file.name), bar);
    byId("uploads").append(row);
    waiting.push({ file, options, bar, row, accepted });
  }
  next();
}

function next() {
  while (busy < AT_ONCE && waiting.length) {
    busy++;
    send(waiting.shift()).finally(() => {
      busy--;
      next();
    });
  }
}

async function send({ file, options, bar, row, accepted }) {
  try {
    const answer = await upload(file, options, (share) => (bar.value = share));
    const url = options.pipeline === "photo" ? URL.createObjectURL(file) : null; // a page is no picture to show
    previews.set(answer.job_id, { name: file.name, url });
    row.remove();
    await accepted(answer);
  } catch (problem) {
    const dismiss = el("button.quiet", { type: "button", onclick: () => row.remove() }, "Dismiss");
    const why = el("p.bad", { role: "alert" }, el("code", {}, problem.code ?? "UNFORESEEN"), " ", problem.message);
    row.replaceChildren(el("span.title", {}, file.name), why, dismiss);
  }
}
