// The page of the example: files go to Safelight by tus with a grant, news come as server-sent events.

const $ = (selector) => document.querySelector(selector);
const session = fetch("/session", { method: "POST" }).then((answer) => answer.json());
const jobs = new Map(); // id -> what is known of it; events may be faster than the answer to the upload
const cards = new Map(); // id of a job -> its card
const OVER = ["succeeded", "failed", "dead", "cancelled"];

const jobOf = (id) => jobs.get(id) ?? jobs.set(id, { status: "queued", phases: new Map() }).get(id);

function heard(event) {
  const data = JSON.parse(event.data);
  if (!data.job_id) return;
  const job = jobOf(data.job_id);
  for (const name of data.phases ?? []) job.phases.set(name, job.phases.get(name) ?? "queued");
  for (const change of data.changes ?? []) if (!change.item) job.phases.set(change.phase, change.status);
  job.status = event.type.startsWith("job.") ? (data.status ?? event.type.split(".")[2]) : job.status;
  draw(data.job_id);
}

session.then(({ batch }) => {
  const events = new EventSource(`/batches/${batch}/events`); // it reconnects by itself, with Last-Event-ID
  const types = ["started", "changed", "reopened", "succeeded", "failed", "dead", "cancelled"];
  for (const type of types) events.addEventListener(`job.v1.${type}`, heard);
});

function draw(id) {
  const card = cards.get(id);
  if (!card) return;
  const job = jobOf(id);
  const done = [...job.phases.values()].filter((status) => ["succeeded", "skipped"].includes(status)).length;
  const working = [...job.phases].find(([, status]) => status === "running")?.[0];
  card.dataset.status = job.status;
  card.querySelector(".what").textContent = OVER.includes(job.status) ? job.status : (working ?? job.status);
  card.querySelector("progress").value = 0.3 + (0.7 * done) / (job.phases.size || 1);
  if (job.status === "succeeded" && card.querySelector("button").disabled) {
    card.querySelector("img").src = `/jobs/${id}/thumb.jpg`;
    card.querySelector("button").disabled = false;
    card.querySelector("button").onclick = () => compare(id);
  }
  const ended = document.querySelectorAll("#photos li[data-status=succeeded]").length;
  $("#count").textContent = `${ended} of ${$("#photos").children.length} finished`;
}

async function bring(file) {
  const card = document.createElement("li");
  card.innerHTML =
    '<button disabled><img alt="" /><span class="name"></span></button><progress max="1" value="0"></progress><span class="what">uploading</span>';
  card.querySelector(".name").textContent = file.name;
  $("#photos").append(card);
  const { endpoint, token } = await session;
  new tus.Upload(file, {
    endpoint,
    headers: { Authorization: `Bearer ${token}` },
    metadata: { filetype: file.type },
    uploadDataDuringCreation: true,
    storeFingerprintForResuming: false, // a visit's grant and batch end with it
    retryDelays: [0, 1000, 3000, 5000, 10000],
    onProgress: (sent, size) => (card.querySelector("progress").value = (0.3 * sent) / size),
    onAfterResponse: (_, answer) => {
      const id = answer.getHeader("Safelight-Job-Id");
      if (!id) return;
      cards.set(id, card);
      draw(id);
    },
    onError: (problem) => {
      card.dataset.status = "refused";
      card.querySelector(".what").textContent = codeOf(problem) ?? "not uploaded";
    },
  }).start();
}

/** Why it was refused: a problem document's stable code. */
function codeOf(problem) {
  try {
    return JSON.parse(problem.originalResponse.getBody()).code;
  } catch {
    return null;
  }
}

function compare(id) {
  const dialog = $("#compare");
  const slide = dialog.querySelector("input");
  dialog.querySelector(".before").src = `/jobs/${id}/original`;
  dialog.querySelector(".after").src = `/jobs/${id}/web.jpg`;
  slide.oninput = () => (dialog.querySelector(".after").style.clipPath = `inset(0 0 0 ${slide.value}%)`);
  slide.oninput();
  dialog.showModal();
}

const drop = $("#drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => (event.preventDefault(), drop.classList.add("over")));
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  [...event.dataTransfer.files].forEach(bring);
});
$("#choose").addEventListener("change", (event) => [...event.target.files].forEach(bring));
