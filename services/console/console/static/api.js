// The API, asked with the key that was typed in. The key is in sessionStorage and in the
// Authorization header of requests to this origin; it is never part of an address.

const KEPT = "safelight-api-key";
const LINK_MS = 10 * 60 * 1000; // a signed link works for 15 minutes; ask anew well before
const RETRY_MS = [500, 1000, 2000];

export const key = {
  get: () => sessionStorage.getItem(KEPT),
  set: (value) => sessionStorage.setItem(KEPT, value),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** An answer that is an error: `code` is stable, `message` is the sentence. */
export class Problem extends Error {
  constructor(code, sentence, status = 0) {
    super(sentence);
    this.code = code;
    this.status = status;
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const unreachable = () => new Problem("UNREACHABLE", "The server does not answer.");

function problemOf(status, text) {
  try {
    const { code, detail } = JSON.parse(text);
    if (code) return new Problem(code, detail, status);
  } catch {
    // Not a problem document: something between us and the server has answered.
  }
  return new Problem(`HTTP_${status}`, `The server answered ${status}.`, status);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${key.get()}` };
  const answer = await fetch(path, { ...options, headers }).catch((why) => {
    throw why.name === "AbortError" ? why : unreachable();
  });
  if (!answer.ok) throw problemOf(answer.status, await answer.text());
  return answer;
}

const json = async (path) => (await ask(path)).json();

export const readJob = (id) => json(`/v1/jobs/${encodeURIComponent(id)}`);
export const readVersions = async (id) => (await json(`/v1/jobs/${encodeURIComponent(id)}/versions`)).versions;
export const readJobs = (query) => json(`/v1/jobs?${new URLSearchParams(query)}`);

/** Asks for `cancel`, `pause`, `resume` or `retry` of a job. The answer names the decision that was made. */
export async function act(id, action) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
  return (await ask(`/v1/jobs/${encodeURIComponent(id)}/${action}`, options)).json();
}

export const readEvents = (id, last, signal) =>
  ask(`/v1/jobs/${encodeURIComponent(id)}/events`, { signal, headers: last ? { "Last-Event-ID": last } : {} });

/** The styles that a photo may name, each with its newest version. */
export const readStyles = async () => (await json("/v1/styles?limit=200")).items;

/** What the upload form accepts, from the API's own description. */
export async function uploadFields() {
  const body = (await json("/openapi.json")).paths["/v1/uploads"].post.requestBody;
  return body.content["multipart/form-data"].schema.properties;
}

const links = new Map();

/** A link to an artifact that an <img> or <a> can use: a signed one, or what is sealed, fetched with the key. */
export function link(url) {
  const known = links.get(url);
  if (known && Date.now() - known.at < LINK_MS) return known.link;
  const asked = json(`${url}?redirect=false`).then((told) => (told.url === url ? fetched(url) : told.url));
  asked.catch(() => links.delete(url));
  links.set(url, { link: asked, at: Date.now() });
  return asked;
}

async function fetched(url) {
  const answer = await fetch(url, { headers: { Authorization: `Bearer ${key.get()}` } });
  if (!answer.ok) throw problemOf(answer.status, await answer.text());
  return URL.createObjectURL(await answer.blob());
}

// crypto.randomUUID needs https; this page may be open over plain http in somebody's own network.
const random = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("-");

/** Upload one file; its tries share one Idempotency-Key, so that it becomes one job. */
export async function upload(file, options, progressed) {
  const idempotencyKey = random();
  for (let attempt = 0; ; attempt++) {
    try {
      return await uploadOnce(file, options, idempotencyKey, progressed);
    } catch (problem) {
      const again = problem.code === "UNREACHABLE" || problem.status === 503;
      if (!again || attempt >= RETRY_MS.length) throw problem;
      await pause(RETRY_MS[attempt]);
    }
  }
}

function uploadOnce(file, options, idempotencyKey, progressed) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  form.append("file", file, "upload"); // last, and without its name: the service has no use for it
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of how far an upload is
    request.open("POST", "/v1/uploads");
    request.setRequestHeader("Authorization", `Bearer ${key.get()}`);
    request.setRequestHeader("Idempotency-Key", idempotencyKey);
    request.upload.onprogress = (event) => event.lengthComputable && progressed(event.loaded / event.total);
    request.onload = () =>
      request.status === 202 ? resolve(JSON.parse(request.responseText)) : reject(problemOf(request.status, request.responseText));
    request.onerror = () => reject(unreachable());
    request.send(form);
  });
}
