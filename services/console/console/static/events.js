// Following a job: its event stream, and what each event makes of it. The same fold as jobs.py: of the job,
// and of each phase, the newest decision (`revision`) wins, in whatever order they are read.

import { readEvents, readJob } from "./api.js";
import { isOver } from "./words.js";

const RETRY_MS = 2000;

/** The events of a `text/event-stream` body (EventSource itself cannot send an Authorization header). */
export async function* parse(stream) {
  let rest = "";
  let event = { id: "", type: "message", data: [] };
  for await (const text of chunks(stream.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/); // a CR at the very end may be half of a CRLF
    rest = lines.pop();
    for (const line of lines) {
      if (!line) {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { id: event.id, type: "message", data: [] };
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "data") event.data.push(value);
      else if (field === "event") event.type = value;
      else if (field === "id") event.id = value;
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader(); // Safari cannot iterate over a stream
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

const CHANGES = {
  "job.v1.started": (job, data) => {
    const status = data.changes.some((change) => change.status === "running") ? "running" : "queued";
    return moved({ ...phasesNamed(job, data), started_at: data.at }, data, status);
  },
  "job.v1.changed": (job, data) => moved(job, data, data.status),
  "job.v1.reopened": (job, data) => moved(phasesNamed(job, data), data, data.status),
  "job.v1.succeeded": (job, data) => moved(job, data, "succeeded", ending(data)),
  "job.v1.failed": (job, data) => moved(job, data, "failed", ending(data)),
  "job.v1.dead": (job, data) => moved(job, data, "dead", ending(data)),
  "job.v1.cancelled": (job, data) => moved(job, data, "cancelled", ending(data)),
  "phase.v1.progressed": (job, data) =>
    data.item
      ? job
      : withPhase(job, data.phase, (phase) =>
          phase.status === "running" && phase.attempt === data.attempt
            ? { ...phase, progress: data.fraction, facts: data.facts ?? {} }
            : phase,
        ),
};

const errorOf = (data) => (data.code ? { code: data.code, detail: data.detail ?? "", phase: data.phase } : null);
const ending = (data) => ({ ended_at: data.at, degraded: !!data.degraded, error: errorOf(data) });

/** The job with its phases moved, and all that the newest decision alone says: what it does not, it takes back. */
function moved(job, data, status, { ended_at = null, degraded = false, error = null } = {}) {
  for (const change of data.changes) if (change.item == null) job = phaseChanged(job, change, data.revision);
  const known = job.revision ?? 0;
  const ends = isOver({ status }) && !isOver(job); // a job that ends as it begins is told by two events of one decision
  if (data.revision < known || (data.revision === known && !ends)) return job;
  return { ...job, status, revision: data.revision, waiting_on: data.waiting_on ?? null, ended_at, degraded, error };
}

function phasesNamed(job, data) {
  if (job.phases.length && data.revision <= (job.revision ?? 0)) return job;
  const known = new Map(job.phases.map((phase) => [phase.name, phase]));
  return { ...job, phases: data.phases.map((name) => known.get(name) ?? { name, status: "queued", revision: 0 }) };
}

const phaseChanged = (job, change, revision) =>
  withPhase(job, change.phase, (phase) => {
    if (revision <= (phase.revision ?? 0)) return phase;
    const { items, started_at: began, ended_at: over, status } = change;
    return {
      ...change,
      name: change.phase,
      revision,
      error: errorOf(change),
      progress: items?.total ? items.ended / items.total : status === "succeeded" ? 1 : null,
      seconds: status !== "skipped" && began && over ? (Date.parse(over) - Date.parse(began)) / 1000 : null,
    };
  });

const withPhase = (job, name, change) => ({
  ...job,
  phases: job.phases.map((phase) => (phase.name === name ? change(phase) : phase)),
});

/** The job after an event; one that this page does not know changes nothing. */
export const after = (job, event) => CHANGES[event.type]?.(job, JSON.parse(event.data)) ?? job;

/** Calls `changed(job)` as the job moves, until it has ended or `signal` aborts. A broken stream goes on where it broke. */
export async function follow(job, changed, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const answer = await readEvents(job.id, last, signal);
      if (answer.status === 200) {
        for await (const event of parse(answer.body)) {
          last = event.id;
          job = after(job, event);
          if (!isOver(job)) changed(job);
        }
      }
      job = await readJob(job.id); // the end is read whole, with its artifacts
      changed(job);
      if (isOver(job)) return;
    } catch (problem) {
      if (signal.aborted || problem.status === 401 || problem.status === 404) return;
    }
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}
