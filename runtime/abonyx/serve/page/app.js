// The page of `abonyx serve`. Modules without a build, in the order data passes: model (card.js) -> input (pasted.js,
// input.js) -> request and answer (server.js) -> histogram.js, scores.js, table.js, files.js; dom.js is below all of them.

import { showFacts } from "./card.js";
import { $, DECIMALS, make, plural, say, whole } from "./dom.js";
import { downloadRejected, downloadScores } from "./files.js";
import { drawHistogram } from "./histogram.js";
import { chooseThreshold, isEmpty, listen, offerHeads, paired, requestOf, showPicker, unclearProblem } from "./input.js";
import { called, hasCalls, isolated, sequencesOf, tableOf } from "./scores.js";
import { Refused, ask, lastLine, parsed, reached, useToken } from "./server.js";
import { PagedTable } from "./table.js";

const RETRY_S = 3;

let model = null; // the answer of /v1/model; null = not ready
let running = null; // the AbortController of the request in flight
let answer = null; // of the last request that ended well
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
  const text = [...lines.filter(Boolean), `Asked again every ${wait} s.`].join("\n");
  // Only what changed is put in: a screen reader would read the same words every few seconds.
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
    + `${whole(max_residues_per_request)} residues and ${whole(max_body_bytes)} bytes; `
    + `a sequence has at most ${whole(model.max_residues)} residues.`;
  showFacts(model);
}

// --- one request

/** What keeps the input from being sent, as a problem; null = nothing. */
function unusable(body) {
  if (isEmpty()) return { title: "There is nothing to score", fix: "Paste sequences, choose a file, or use the example." };
  if (body.size <= model.limits.max_body_bytes) return null;
  const detail = `It has ${whole(body.size)} bytes; this server takes ${whole(model.limits.max_body_bytes)} at once.`;
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
    showAnswer(await answerOf(request));
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

/** The service's answer; of JSON it knows the number of the item only, where the text has a line. */
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
  if (answer) $("results-title").textContent = `Earlier: ${resultsTitle()}`;
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

// --- the answer

function showAnswer(found) {
  answer = found;
  answer.results.forEach((row, at) => { row.number = at + 1; });
  if (answer.model.sha256 !== model?.sha256) loadModel().then(() => drawHistogram(answer, model)); // reloaded since
  $("results-title").textContent = resultsTitle();
  const { name, variant, provider, sha256 } = answer.model;
  const calls = hasCalls(answer) ? `${callWords()} ` : "";
  $("results-model").textContent = `${calls}${headWords()}${panelWords()}`
    + `Scored by ${name} (${sha256.slice(0, 12)}), ${variant} on ${provider}. Scores are shown with ${DECIMALS} decimals; the CSV has every digit.`;
  $("reading").hidden = !answer.notes.length;
  $("reading").textContent = answer.notes.join("\n");
  $("flagged").hidden = !flaggedRows().length;
  $("flagged").textContent = flagWords();
  const formulas = [...answer.results, ...answer.rejected].filter((row) => /^[=+\-@\t\r]/.test(row.id)).length;
  $("formulas").hidden = !formulas;
  $("formulas").textContent = `${plural(formulas, "id begins", "ids begin")} with =, +, - or @, `
    + "which a spreadsheet may run as a formula. The CSV has ids as they were given: import its columns as text.";
  $("results").hidden = false;
  $("rejected").hidden = !answer.rejected.length;
  $("rejected-title").textContent = `${plural(answer.rejected.length, "record")} left out`;
  rejectedTable.show(answer.rejected);
  scoresTable = tableOf(answer);
  for (const id of ["find", "call", "flag"]) $(id).value = "";
  filterScores();
  drawHistogram(answer, model);
  say(`Done: ${resultsTitle()}.`);
  $("results-title").focus();
}

const flaggedRows = () => answer.results.filter((row) => row.flag);

/** Which scores are called what. */
function callWords() {
  const threshold = answer.threshold + (answer.assay ? ` (${answer.assay})` : "");
  if (!answer.band) return `Called non-specific above ${threshold}, and never uncertain: ${whyTwo()}.`;
  const [low, high] = [answer.band.low, answer.band.high].map((p) => p.toFixed(DECIMALS));
  return `Called specific below ${low}, non-specific above ${high}, and uncertain from one to the other. The column `
    + `nonspecific of the CSV is 1 above ${threshold}.`;
}

const whyTwo = () => (model?.sha256 === answer.model.sha256 && model?.training?.band
  ? "a threshold was chosen" : "the model has no stored quantiles");

function resultsTitle() {
  const counted = (call) => whole(answer.results.filter((row) => row.call === call).length);
  const uncertain = answer.band ? `, ${counted("uncertain")} uncertain` : "";
  const flagged = flaggedRows().length ? `, ${whole(flaggedRows().length)} flagged` : "";
  const left = answer.rejected.length ? `, ${whole(answer.rejected.length)} left out` : "";
  const scored = `${plural(answer.results.length, answer.chains.length > 1 ? "pair" : "sequence")} scored`;
  const calls = hasCalls(answer) ? `, ${counted("non-specific")} called non-specific${uncertain}` : "";
  return `${scored}${calls}${flagged}${left}`;
}

/** What the columns of heads that give values mean; nothing without such a head. */
function headWords() {
  const words = answer.heads.filter(({ unit }) => unit).map(({ name, unit, higher_is_worse: higher }) =>
    `${name} is in ${unit}; ${higher ? "higher" : "lower"} is worse. `);
  return words.join("");
}

/** What the column of percentiles means; nothing without a panel. */
function panelWords() {
  if (!answer.panel) return "";
  const { name, rows, source } = answer.panel;
  return `A percentile is the share of the panel ${name} that scores lower, in percent, as the 95 % interval that `
    + `${plural(rows, "row")} allow (${source}); "in panel" marks a sequence of the panel itself. `;
}

/** How many rows are flagged, for which reasons, and how many of them have no call. */
function flagWords() {
  const flagged = flaggedRows().length;
  const without = answer.results.filter((row) => !called(row)).length;
  const reasons = Object.entries(answer.flags).map(([reason, count]) => `${reason} ${whole(count)}`).join(", ");
  const text = `Flagged: ${whole(flagged)} of ${plural(answer.results.length, "record")} (${reasons}).`;
  if (!hasCalls(answer)) return text;
  if (!without) return `${text} All of them keep their call.`;
  return `${text} ${whole(without)} of them ${without === 1 ? "has" : "have"} a score but no call: the model was not `
    + "trained on such records, and their scores mean nothing.";
}

function filterScores() {
  const text = $("find").value.trim().toLowerCase();
  const call = $("call").value, flag = $("flag").value;
  const kept = answer.results.filter((row) =>
    (!call || (row.call ?? "-") === call)
    && (!flag || Boolean(row.flag) === (flag === "flagged"))
    && (!text || [row.id, ...sequencesOf(row)].some((each) => each.toLowerCase().includes(text))));
  scoresTable.show(kept, answer.results.length);
}

let scoresTable = null; // its columns are those of the answer
const rejectedTable = new PagedTable($("rejects"), "Records that were left out", [
  { kind: "number", title: "Line", cell: (row) => whole(row.line) },
  { kind: "id", title: "Id", cell: (row) => isolated(row.id) },
  { kind: "reason", title: "Reason", cell: (row) => row.reason },
]);

// --- what the user does

listen(showProblem);
$("input").addEventListener("submit", score);
$("cancel").addEventListener("click", () => running?.abort());
$("find").addEventListener("input", filterScores);
$("call").addEventListener("change", filterScores);
$("flag").addEventListener("change", filterScores);
$("whole").addEventListener("change", () => $("scores").classList.toggle("whole", $("whole").checked));
$("download").addEventListener("click", () => downloadScores(answer));
$("download-rejected").addEventListener("click", () => downloadRejected(answer));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value);
  loadModel();
});

let drawnWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (answer && contentRect.width !== drawnWidth) drawHistogram(answer, model);
  drawnWidth = contentRect.width;
}).observe($("plot"));
loadModel();
