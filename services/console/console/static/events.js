// Following a job: its event stream, and what each event makes of it. (The same fold as jobs.py.)

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

const ended = (status) => (job, data) => ({ ...job, status, ended_at: data.at, degraded: !!data.degraded, error: errorOf(data) });

const CHANGES = {
  "job.v1.started": (job, data) => ({
    ...job,
    status: "running",
    started_at: data.at,
    phases: data.phases.map((name) => job.phases.find((phase) => phase.name === name) ?? { name, status: "queued" }),
  }),
  "job.v1.phasechanged": (job, data) =>
    withPhase(job, data.phase, () => ({
      ...data,
      name: data.phase,
      error: errorOf(data),
      seconds:
        data.status !== "skipped" && data.started_at && data.ended_at
          ? (Date.parse(data.ended_at) - Date.parse(data.started_at)) / 1000
          : null,
    })),
  "phase.v1.progressed": (job, data) =>
    withPhase(job, data.phase, (phase) =>
      phase.status === "running" && phase.attempt === data.attempt ? { ...phase, progress: data.fraction } : phase,
    ),
  "job.v1.succeeded": ended("succeeded"),
  "job.v1.failed": ended("failed"),
  "job.v1.dead": ended("dead"),
};

const errorOf = (data) => (data.code ? { code: data.code, detail: data.detail ?? "", phase: data.phase } : null);

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
