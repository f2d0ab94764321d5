// The page of `abonyx serve`. Modules without a build, in the order data passes: model (card.js) -> input (pasted.js,
// input.js) -> request and answer (server.js) -> results.js, with histogram.js, assessment.js, scores.js, table.js and
// files.js -> a row that is opened (explanation.js, contributions.js; scan.js, heatmap.js); dom.js is below all of them.

import { showFacts } from "./card.js";
import { $, plural, say, size, whole } from "./dom.js";
import { chooseThreshold, isEmpty, listen, offerHeads, paired, requestOf, showPicker, unclearProblem } from "./input.js";
import { isOf, listenToResults, markEarlier, showAnswer, useModel } from "./results.js";
import { hasCalls } from "./scores.js";
import { Refused, ask, lastLine, parsed, reached, useToken } from "./server.js";

const RETRY_S = 3;

let model = null; // the answer of /v1/model; null = not ready
let running = null; // the AbortController of the request in flight
let retry = 0;

// --- the model

async function loadModel() {
  clearTimeout(retry);
  try {
    const waited = !$("waiting").hidden;
    model = parsed(await reached((await ask("v1/model")).text()));
    $("waiting").hidden = true;
    if (waited) say("The model is ready.");
    showModel();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    model = null;
    if (error.status === 401) askToken(error.problem);
    else showWaiting(error.problem, error.wait || RETRY_S);
  }
  $("model-state").className = `dot ${model ? "ready" : "not-ready"}`;
  $("score").disabled = !model || Boolean(running);
}

function showWaiting({ title, detail, fix }, wait) {
  $("model-name").textContent = "Model not ready";
  const lines = ["The model is not ready, so nothing can be scored yet.", detail || title, fix];
  const text = [...lines.filter(Boolean), `This page asks again every ${wait} s.`].join("\n");
  // Only a change is put in: a screen reader would otherwise read the same words every few seconds.
  if ($("waiting").textContent !== text || $("waiting").hidden) $("waiting").textContent = text;
  $("waiting").hidden = false;
  retry = setTimeout(loadModel, 1000 * wait);
}

function askToken({ detail, fix }) {
  $("model-name").textContent = "A token is needed";
  $("waiting").hidden = true;
  $("token-words").textContent = [detail, fix].filter(Boolean).join("\n");
  $("token-form").hidden = false;
  $("token").focus();
}

function showModel() {
  $("token-form").hidden = true;
  $("model-name").textContent = `${model.name}: ready`;
  const chosen = $("assay").value;
  const own = new Option("my own value", "own");
  const assays = Object.entries(model.thresholds).map(([assay, value]) => new Option(`${assay} (${value})`, assay));
  const usual = hasCalls(model) ? [new Option(`the model's own (${model.default_threshold})`, ""), ...assays, own] : [];
  $("assay").replaceChildren(...usual);
  $("threshold-choice").hidden = !usual.length;
  offerHeads(model.heads);
  if ([...$("assay").options].some((option) => option.value === chosen)) $("assay").value = chosen;
  chooseThreshold();
  const { max_body_bytes, max_sequences, max_residues_per_request } = model.limits;
  $("limits").textContent = `At once: up to ${plural(max_sequences, "sequence")}, `
    + `${whole(max_residues_per_request)} residues and ${size(max_body_bytes)}; `
    + `a sequence has at most ${whole(model.max_residues)} residues.`;
  showFacts(model);
}

// --- one request

/** Why the input cannot be sent, as a problem; null = it can. */
function unusable(body) {
  if (isEmpty()) return { title: "There is nothing to score", fix: "Paste sequences, choose a file, or use the example." };
  if (body.size <= model.limits.max_body_bytes) return null;
  const most = model.limits.max_body_bytes;
  const detail = `It has ${size(body.size)}, ${size(body.size - most)} more than the ${size(most)} that this server takes at once.`;
  return { title: "The input is too large", detail, fix: "Give it in parts, or use the command line: abonyx score." };
}

async function score(event) {
  event.preventDefault();
  if (!model || running) return;
  for (const id of ["problem", "picker"]) $(id).hidden = true;
  const request = requestOf();
  if (request.unclear) {
    showPicker(request.unclear);
    return;
  }
  const reason = unusable(request.body);
  if (reason) {
    showProblem(reason);
    return;
  }
  running = new AbortController();
  showRunning(true);
  say("Scoring.");
  try {
    showAnswer(await answerOf(request), model);
    if (!isOf(model)) loadModel().then(() => useModel(model)); // it was reloaded since
  } catch (error) {
    if (error instanceof Refused) refuse(error);
    else if (error.name === "AbortError") say("Cancelled: nothing was scored.");
    else throw error;
  } finally {
    const cancelled = running.signal.aborted;
    running = null;
    showRunning(false);
    if (cancelled) $("score").focus();
  }
}

/** The service's answer. For JSON the service names the number of an item; this turns it into the line of the text. */
async function answerOf({ path, type, body, lines }) {
  const headers = { "Content-Type": type, Accept: "application/x-ndjson" };
  try {
    const response = await ask(path, { method: "POST", headers, body, signal: running.signal });
    const found = await lastLine(response, showProgress);
    if (lines) for (const row of found.rejected) row.line = lines[row.line - 1];
    return found;
  } catch (error) {
    const { problem } = error;
    if (lines && problem?.detail) {
      problem.detail = problem.detail.replaceAll(/^( *request:)(\d+)(?=: )/gm, (_, name, at) => name + lines[at - 1]);
    }
    throw error;
  }
}

function showRunning(on) {
  for (const id of ["progress", "cancel"]) $(id).hidden = !on;
  $("score").disabled = on || !model;
  $("bar").removeAttribute("value");
  $("counted").textContent = "sending";
  if (!on) return;
  $("cancel").focus();
  markEarlier();
}

function showProgress({ done, total }) {
  $("bar").max = Math.max(total, 1);
  $("bar").value = done;
  $("counted").textContent = `${whole(done)} of ${plural(total, paired() ? "pair" : "sequence")}`;
}

function refuse({ problem, status, wait }) {
  const unclear = unclearProblem(problem);
  if (status === 401) askToken(problem);
  else if (unclear) showPicker(unclear);
  else showProblem(problem, wait);
  if (status === 503) loadModel(); // not ready, or only busy
}

function showProblem({ title, status, detail = "", fix = "" }, wait = 0) {
  $("problem-title").textContent = status ? `Nothing was scored (${status} ${title})` : title;
  $("problem-detail").textContent = detail;
  $("problem-fix").textContent = fix + (wait ? ` Try again in ${wait} s.` : "");
  $("problem").hidden = false;
  say("");
  $("problem").focus();
}

// --- what the user does

listen(showProblem);
$("input").addEventListener("submit", score);
$("cancel").addEventListener("click", () => running?.abort());
listenToResults();
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value);
  loadModel();
});

loadModel();
