// How states and numbers read.

// A mark differs in shape, so that colour is not needed to read it.
export const MARKS = {
  queued: "·",
  running: "",
  succeeded: "✓",
  degraded: "◐",
  skipped: "–",
  failed: "✕",
  cancelled: "⊘",
  dead: "✕",
};

export const DEGRADED = "done by a lesser engine (CPU in place of GPU); it can be redone later";

export const isOver = (job) => job.status !== "queued" && job.status !== "running";

/** The state that is shown: a status, or `degraded` for what succeeded with a lesser engine. */
export const stateOf = (it) => (it.status === "succeeded" && it.degraded ? "degraded" : it.status);

export const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

export function secondsOf(job) {
  const end = job.ended_at ? Date.parse(job.ended_at) : Date.now();
  return Math.max(0, (end - Date.parse(job.created_at)) / 1000);
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export function ago(instant) {
  const passed = (Date.now() - Date.parse(instant)) / 1000;
  if (passed < 45) return "just now";
  if (passed < 45 * 60) return relative.format(-Math.round(passed / 60), "minute");
  if (passed < 22 * 3600) return relative.format(-Math.round(passed / 3600), "hour");
  return relative.format(-Math.round(passed / 86400), "day");
}

export function bytes(size) {
  const power = size < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(size) / 3));
  return `${(size / 1000 ** power).toFixed(power ? 1 : 0)} ${["B", "kB", "MB", "GB"][power]}`;
}

/** `3 of 10 items, 1 given up`. */
export function itemsText({ total, ended, gave_up }) {
  return `${ended} of ${total} items${gave_up ? `, ${gave_up} given up` : ""}`;
}

/** A phase as a sentence, for screen readers and tooltips. */
export function phaseSentence(phase) {
  const parts = [`${phase.name}: ${phase.status}`];
  if (phase.status === "running" && phase.progress != null) parts.push(`${Math.round(phase.progress * 100)}%`);
  if (phase.status === "running" && phase.facts?.eta_s != null) parts.push(`${seconds(phase.facts.eta_s)} to go`);
  if (phase.items) parts.push(itemsText(phase.items));
  if (phase.seconds != null) parts.push(seconds(phase.seconds));
  if (phase.degraded) parts.push(DEGRADED);
  if (phase.error) parts.push(`${phase.error.code}, ${phase.error.detail}`);
  return parts.join(", ");
}
