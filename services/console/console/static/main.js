// The page: the key, the list of jobs, and who is followed live.
//
// A browser opens six connections to one origin over HTTP/1.1:
//   3 event streams + 2 uploads + 1 for everything else = 6.
// Jobs beyond the three that are followed are read by asking for the list again.

import * as api from "./api.js";
import { card } from "./card.js";
import * as detail from "./detail.js";
import { byId } from "./dom.js";
import { follow } from "./events.js";
import * as uploads from "./uploads.js";
import { isOver } from "./words.js";

const FOLLOWED = 3;
const A_PAGE = 24;
const REFRESH_MS = 3000; // while jobs run that are not followed
const LOOK_MS = 15000; // otherwise: somebody else may have submitted something
const ACTED_MS = 200; // what is shown follows a decision within a moment: looked at so often, so many times
const ACTED_LOOKS = 10;

const cards = new Map(); // job id -> card, in the order of the list
const followed = new Map(); // job id -> AbortController
let older = null; // cursor of the next page

// -- the key ---------------------------------------------------------------------------------

async function enter() {
  try {
    await refresh();
  } catch (problem) {
    if (problem.status === 401) return leave("This key is not known here.");
    worry(problem);
    return setTimeout(enter, REFRESH_MS);
  }
  byId("gate").hidden = true;
  byId("room").hidden = byId("leave").hidden = false;
  uploads.offerOptions().catch(() => {});
}

function leave(why = "") {
  api.key.forget();
  clear();
  byId("detail").close();
  byId("room").hidden = byId("leave").hidden = true;
  byId("gate").hidden = false;
  byId("gate-error").textContent = why;
  byId("summary").textContent = "";
  byId("key").focus();
}

// -- the list --------------------------------------------------------------------------------

const query = (more) => {
  const status = byId("status").value;
  return { limit: A_PAGE, ...(status && { status }), ...more };
};

function clear() {
  for (const controller of followed.values()) controller.abort();
  followed.clear();
  cards.clear();
  byId("jobs").replaceChildren();
}

async function refresh() {
  const page = await api.readJobs(query());
  // More came than a page holds: what lies between is not here, so the list begins anew.
  if (!page.items.some((job) => cards.has(job.id))) clear();
  if (cards.size <= A_PAGE) older = page.next_cursor;
  for (const job of page.items.reverse()) if (!followed.has(job.id)) put(job, true);
  arrange();
}

async function showOlder() {
  const page = await api.readJobs(query({ cursor: older }));
  older = page.next_cursor;
  for (const job of page.items) put(job, false);
  arrange();
}

function put(job, first) {
  const known = cards.get(job.id);
  if (known) {
    known.update(job);
  } else {
    const made = card(job, (id) => detail.show(cards.get(id).job(), acted));
    cards.set(job.id, made);
    byId("jobs")[first ? "prepend" : "append"](made.element);
  }
  detail.update(job);
}

/** After any change: who is followed, and what the page says of the whole. */
function arrange() {
  const jobs = [...cards.values()].map((each) => each.job());
  const open = jobs.filter((job) => !isOver(job)).sort((a, b) => a.created_at.localeCompare(b.created_at));
  for (const job of open) if (followed.size < FOLLOWED && !followed.has(job.id)) watch(job);
  byId("empty").hidden = jobs.length > 0;
  byId("more").hidden = !older;
  byId("summary").textContent = open.length ? `${open.length} developing` : "";
  byId("summary").classList.remove("bad");
}

function worry(problem) {
  byId("summary").classList.add("bad");
  byId("summary").textContent = problem.message;
}

function watch(job) {
  const controller = new AbortController();
  followed.set(job.id, controller);
  const changed = (next) => {
    if (cards.has(next.id) && !controller.signal.aborted) put(next, true);
  };
  follow(job, changed, controller.signal).finally(() => {
    if (controller.signal.aborted) return;
    followed.delete(job.id);
    arrange();
  });
}

async function accepted(answer) {
  put(await api.readJob(answer.job_id), true);
  arrange();
}

/** Waits a moment for what was asked of a job to show, and follows the job if it is at work again. */
async function acted(id, revision) {
  for (let look = 0; look < ACTED_LOOKS; look++) {
    const job = await api.readJob(id);
    if (cards.has(id)) put(job, false);
    if (job.revision >= revision) break;
    await new Promise((done) => setTimeout(done, ACTED_MS));
  }
  arrange();
}

/** Reads the list again and again, as often as something depends on it, while somebody looks. */
async function keepFresh() {
  for (;;) {
    const unfollowed = [...cards.values()].some((each) => !isOver(each.job()) && !followed.has(each.job().id));
    await new Promise((done) => setTimeout(done, unfollowed ? REFRESH_MS : LOOK_MS));
    if (document.hidden || byId("room").hidden) continue;
    try {
      await refresh();
    } catch (problem) {
      if (problem.status === 401) leave("This key is not known here any more.");
      else worry(problem);
    }
  }
}

// -- wiring ----------------------------------------------------------------------------------

byId("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set(byId("key").value.trim());
  byId("key").value = "";
  enter();
});
byId("leave").addEventListener("click", () => leave());
byId("more").addEventListener("click", () => showOlder().catch(worry));
byId("status").addEventListener("change", () => {
  clear();
  refresh().catch(worry);
});
byId("detail").addEventListener("close", detail.closed);
byId("detail").addEventListener("click", (event) => event.target === byId("detail") && byId("detail").close());
setInterval(() => cards.forEach((each) => each.tick()), 500);
uploads.start(accepted);
keepFresh();
if (api.key.get()) enter();
else leave();
