// All versions of one photo side by side, each with its picture and what it was asked for.

import { link, readJob, readVersions } from "./api.js";
import { el, onceSeen } from "./dom.js";

const SMALL = ["thumb.webp", "thumb.jpg", "web.webp", "web.jpg"]; // what every browser shows, the smallest first

/** A place that fills itself when the photo has more than one version. `open(job)` shows another one. */
export function versions(job, open) {
  const place = el("section", { hidden: true });
  readVersions(job.id).then(
    (all) => {
      if (all.length < 2) return;
      place.hidden = false;
      place.append(el("h3", {}, "Versions"), el("ol.versions", {}, ...all.map((one) => item(one, job, all[0], open))));
    },
    () => {}, // without them the job is shown all the same
  );
  return place;
}

function item(version, job, first, open) {
  const picture = el("img", { alt: "" });
  const told = el("span", {}, `${version.version}`, el("span.muted", {}, ` ${askedFor(version, first)}`));
  const current = version.job_id === job.id;
  const button = el(
    "button.quiet",
    {
      type: "button",
      "aria-current": current ? "true" : null,
      onclick: () => readJob(version.job_id).then(open, () => {}),
    },
    picture,
    told,
  );
  onceSeen(button, () => readJob(version.job_id).then((found) => draw(picture, found), () => {}));
  return el("li", {}, button);
}

function draw(picture, job) {
  const made = SMALL.map((name) => job.artifacts.find((it) => it.name === name)).find(Boolean);
  if (made) link(made.url).then((url) => (picture.src = url), () => {});
}

/** The style and crop of the first version; of another one what it has otherwise. */
function askedFor(version, first) {
  const named = version === first ? ["style", "crop"] : Object.keys(version.options);
  const other = named.filter((name) => version === first || !same(version.options[name], first.options[name]));
  const text = other.map((name) => `${name.replaceAll("_", " ")} ${value(version.options[name])}`).join(", ");
  return text || "as the first";
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

const value = (given) => (given == null ? "none" : typeof given === "object" ? "changed" : `${given}`);
