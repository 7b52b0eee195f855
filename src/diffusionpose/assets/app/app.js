// The page: choose a video, upload it, ask once a second how far it is, show the results.
// The id of the job stands in the address (#job=...), so that a reload or a second tab shows the same job.
"use strict";

const $ = (id) => document.getElementById(id);
const VIEWS = ["start", "work", "result", "trouble"];
const POLL_MS = 1000;
const COUNT_MS = 10_000;

const state = { file: null, jobId: null, upload: null, timer: 0, settings: null, said: "" };

function show(view) {
  if (!$(view).hidden) return;
  for (const name of VIEWS) $(name).hidden = name !== view;
  $(view).querySelector("h1[tabindex]")?.focus();
  window.scrollTo(0, 0);
}

function say(text) {
  if (text !== state.said) $("spoken").textContent = state.said = text;
}

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.error || "The server did not understand."), { status: answer.status });
  return body;
}

// ---- words

const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function duration(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}

function minutes(count) {
  return count < 1.5 ? "a minute" : `${Math.round(count)} minutes`;
}

// ---- the start

function choose(file) {
  if (!file) return;
  state.file = file;
  const most = state.settings?.max_upload_bytes ?? Infinity;
  const isTooLarge = file.size > most;
  problem(isTooLarge ? `This video has ${megabytes(file.size)}; the limit here is ${megabytes(most)}.` : "");
  $("chosen").textContent = file.name;
  $("drop-hint").textContent = `${megabytes(file.size)}. Choose again to replace it.`;
  $("drop").classList.add("full");
  $("go").disabled = isTooLarge;
}

function problem(text) {
  $("start-problem").textContent = text;
  $("start-problem").hidden = !text;
}

function needsHeight() {
  return ["trc", "c3d"].some((name) => document.querySelector(`input[value="${name}"]`).checked);
}

function query() {
  const formats = [...document.querySelectorAll('input[name="formats"]:checked')].map((box) => box.value);
  const wanted = new URLSearchParams({ name: state.file.name.slice(-255), formats: ["json", ...formats].join(",") });
  wanted.set("smooth", $("smooth").value);
  wanted.set("min_score", $("min-score").value || "0");
  wanted.set("fill_gaps", $("fill-gaps").value || "0");
  wanted.set("detect_every", $("detect-every").value || "1");
  wanted.set("angles", String(document.querySelector('input[name="angles"]').checked));
  wanted.set("blur_faces", String($("blur-faces").checked));
  if (needsHeight()) wanted.set("height_m", $("height").value);
  return wanted;
}

function isWrong(field) {
  const { valid, badInput, rangeUnderflow, rangeOverflow } = field.validity;
  // The steps of a field for decimals are those of its arrows; any number between may be typed.
  return field.inputMode === "decimal" ? badInput || rangeUnderflow || rangeOverflow : !valid;
}

function firstWrongField() {
  if (needsHeight() && !$("height").value) return [$("height"), "TRC and C3D are in metres: give the person’s height."];
  const ranges = { "height": "The height is in metres, 0.3 to 3.", "min-score": "The score must be a number from 0 to 1.", "fill-gaps": "Gaps can have 0 to 250 frames.", "detect-every": "People can be looked for every 1 to 30 frames." };
  for (const [id, text] of Object.entries(ranges)) {
    if ((id !== "height" || needsHeight()) && isWrong($(id))) return [$(id), text];
  }
  return null;
}

function begin(event) {
  event.preventDefault();
  const wrong = firstWrongField();
  if (wrong) {
    problem(wrong[1]);
    const fold = wrong[0].closest("details");
    if (fold) fold.open = true;
    wrong[0].focus();
    return;
  }
  problem("");
  upload();
}

function upload() {
  const request = new XMLHttpRequest();
  state.upload = request;
  draw({ title: "Uploading", name: state.file.name, share: 0, label: "Uploaded", count: `0 of ${megabytes(state.file.size)}`, hint: "" });
  request.upload.onprogress = ({ loaded, total }) => {
    draw({ title: "Uploading", name: state.file.name, share: total ? loaded / total : 0, label: "Uploaded", count: `${Math.round((100 * loaded) / Math.max(total, 1))} %`, hint: "" });
  };
  request.onload = () => {
    state.upload = null;
    let body = {};
    try {
      body = JSON.parse(request.responseText);
    } catch {
      body.error = "The server did not understand.";
    }
    if (request.status === 201) follow(body.id, body);
    else {
      show("start");
      problem(body.error);
    }
  };
  request.onerror = () => {
    state.upload = null;
    show("start");
    problem("The upload broke off. Is the server still running?");
  };
  request.onabort = () => {
    state.upload = null;
    show("start");
  };
  request.open("POST", `/api/jobs?${query()}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(state.file);
}

// ---- the work

function draw({ title, name, share, label = "Frames", count = "–", speed = "–", left = "–", hint = "" }) {
  $("work-title").textContent = title;
  $("work-name").textContent = name;
  if (share === null) $("bar").removeAttribute("value");
  else $("bar").value = share;
  $("count-label").textContent = label;
  $("count").textContent = count;
  $("speed").textContent = speed;
  $("left").textContent = left;
  $("work-hint").textContent = hint;
  $("work-facts").hidden = [count, speed, left].every((text) => text === "–");
  document.title = `${share ? `${Math.floor(100 * share)} % ` : ""}${title} – diffusionpose`;
  show("work");
}

function follow(jobId, job) {
  state.jobId = jobId;
  sessionStorage.setItem("job", jobId);
  history.replaceState(null, "", `#job=${jobId}`);
  clearTimeout(state.timer);
  if (job) display(job);
  state.timer = setTimeout(poll, job ? POLL_MS / 2 : 0);
}

async function poll() {
  const jobId = state.jobId;
  if (!jobId) return;
  clearTimeout(state.timer);
  try {
    const job = await ask(`/api/jobs/${jobId}`);
    if (jobId !== state.jobId) return;
    display(job);
    if (job.state !== "queued" && job.state !== "running") return;
  } catch (error) {
    if (jobId !== state.jobId) return;
    if (error.status) return trouble(error.message);
    if (!$("result").hidden) return trouble("The server does not answer, and these results have expired.");
    $("work-hint").textContent = "The server does not answer. Trying again …";
    say("The server does not answer. Trying again.");
  }
  state.timer = setTimeout(poll, POLL_MS);
}

function display(job) {
  if (job.state === "done") return results(job);
  if (job.state === "failed") return trouble(job.message);
  if (job.state === "cancelled") return trouble("The video was cancelled, and all its files were deleted.", "Cancelled");
  if (job.state === "queued" && job.position > 0) {
    const before = plural(job.position, "video is", "videos are");
    say(`Waiting. ${before} before yours.`);
    return draw({ title: "Waiting", name: job.name, share: null, hint: `${before} before yours.` });
  }
  const total = job.expected_frames;
  if (job.state === "queued" || !job.frames) {
    say("Getting ready.");
    return draw({ title: "Getting ready", name: job.name, share: null, count: total ? `0 of ${total.toLocaleString("en")}` : "–", hint: "The model is being loaded." });
  }
  const isOver = total && job.frames >= total;
  const share = total ? Math.min(1, job.frames / total) : null;
  draw({
    title: isOver ? "Writing the files" : "Finding poses",
    name: job.name,
    share: isOver ? null : share,
    count: total ? `${job.frames.toLocaleString("en")} of ${total.toLocaleString("en")}` : job.frames.toLocaleString("en"),
    speed: job.frames_per_second ? `${job.frames_per_second.toFixed(1)} a second` : "–",
    left: job.seconds_left !== null && !isOver ? duration(job.seconds_left) : "–",
    hint: "You may close this page and come back to this address.",
  });
  if (share !== null) say(isOver ? "Writing the files." : `${10 * Math.floor(10 * share)} percent done.`);
}

async function cancel() {
  if (state.upload) return state.upload.abort();
  if (!state.jobId) return;
  $("cancel").disabled = true;
  try {
    display(await ask(`/api/jobs/${state.jobId}/cancel`, { method: "POST" }));
  } catch (error) {
    trouble(error.status ? error.message : "The server does not answer.");
  } finally {
    $("cancel").disabled = false;
  }
}

// ---- the end

function results(job) {
  const facts = job.result;
  document.title = "Done – diffusionpose";
  $("result-title").textContent = facts.people ? plural(facts.people, "person found", "people found") : "Nobody found";
  $("result-name").textContent = job.name;
  $("fact-frames").textContent = facts.frames.toLocaleString("en");
  $("fact-people").textContent = facts.people.toLocaleString("en");
  $("fact-seconds").textContent = facts.seconds < 60 ? `${facts.seconds.toFixed(1)} s` : duration(facts.seconds);
  $("warnings").hidden = !facts.warnings.length;
  $("warnings-title").textContent = facts.is_partial ? "The video is damaged or incomplete. What could be read is here." : "Worth knowing about this video";
  $("warning-list").replaceChildren(...facts.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("download").href = `/api/jobs/${job.id}/zip`;
  const source = `/api/jobs/${job.id}/video`;
  if ($("film").getAttribute("src") !== source) $("film").src = source;
  show("result");
  say(`Done. ${$("result-title").textContent}.`);
  countDown(Date.now() + 1000 * job.deleted_in + POLL_MS);
}

// The server is asked at the end, for it decides what is still there.
function countDown(end) {
  clearTimeout(state.timer);
  const left = end - Date.now();
  if (left <= 0) return poll();
  $("expires").textContent = `Everything is deleted from here in ${minutes(left / 60_000)}.`;
  state.timer = setTimeout(countDown, Math.min(left, COUNT_MS), end);
}

function trouble(text, title = "That did not work") {
  forget();
  document.title = `${title} – diffusionpose`;
  $("trouble-title").textContent = title;
  $("trouble-text").textContent = text;
  show("trouble");
  say(`${title}. ${text}`);
}

function forget() {
  clearTimeout(state.timer);
  state.jobId = null;
  sessionStorage.removeItem("job");
  history.replaceState(null, "", "/");
  $("film").removeAttribute("src");
  $("film").load();
}

function restart() {
  forget();
  state.file = null;
  $("file").value = "";
  $("chosen").textContent = "Drop a video here, or choose one";
  $("drop-hint").textContent = "It stays on the computer that runs this page.";
  $("drop").classList.remove("full");
  $("go").disabled = true;
  problem("");
  document.title = "diffusionpose";
  show("start");
  $("file").focus();
}

async function remove() {
  if (!state.jobId) return;
  try {
    await ask(`/api/jobs/${state.jobId}`, { method: "DELETE" });
    say("Deleted.");
    restart();
  } catch (error) {
    trouble(error.status ? error.message : "The server does not answer.");
  }
}

// ---- wiring

function listen() {
  $("start").addEventListener("submit", begin);
  $("file").addEventListener("change", () => choose($("file").files[0]));
  $("formats").addEventListener("change", () => { $("height-field").hidden = !needsHeight(); });
  $("cancel").addEventListener("click", cancel);
  $("delete").addEventListener("click", remove);
  $("home").addEventListener("click", (event) => {
    // Such a click opens the start elsewhere; this tab keeps its video.
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (state.upload) event.preventDefault();
    else forget();
  });
  for (const button of document.querySelectorAll(".again")) button.addEventListener("click", restart);
  // Anywhere on the page, so that a near miss does not make the browser open the video.
  let depth = 0;
  const light = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", () => light(1));
  addEventListener("dragleave", () => light(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    light(0);
    if (!$("start").hidden) choose(event.dataTransfer.files[0]);
  });
  addEventListener("hashchange", resume);
  addEventListener("beforeunload", (event) => {
    if (state.upload) event.preventDefault();
  });
}

function resume() {
  const jobId = new URLSearchParams(location.hash.slice(1)).get("job") ?? sessionStorage.getItem("job");
  if (jobId && /^[\w-]+$/.test(jobId) && jobId !== state.jobId && !state.upload) follow(jobId);
}

async function greet() {
  try {
    state.settings = await ask("/api/settings");
  } catch {
    return problem("The server does not answer.");
  }
  const { formats, keep_minutes, max_upload_bytes } = state.settings;
  for (const box of document.querySelectorAll('input[name="formats"]')) {
    box.closest("label").hidden = !formats.includes(box.value);
  }
  const isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  if (!isLocal) $("machine").textContent = location.hostname;
  $("privacy").textContent = `Up to ${megabytes(max_upload_bytes)}. The upload is deleted when the work is done, the results after ${minutes(keep_minutes)}.`;
}

listen();
greet();
resume();
