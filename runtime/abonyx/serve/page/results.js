// The answer on the page: its title and words, its table, and what the user does with them.

import { drawAssessment, listenToAssessment, showAssessment } from "./assessment.js";
import { $, DECIMALS, isolated, plural, say, whole } from "./dom.js";
import { downloadRejected, downloadScores } from "./files.js";
import { drawHistogram } from "./histogram.js";
import { called, hasCalls, sequencesOf, tableOf } from "./scores.js";
import { PagedTable } from "./table.js";

let answer = null; // of the last request that ended well
let model = null; // that was open when the answer came, or was opened since
let scoresTable = null; // its columns are those of the answer
const rejectedTable = new PagedTable($("rejects"), "Records that were left out", [
  { kind: "number", title: "Line", cell: (row) => whole(row.line) },
  { kind: "id", title: "Id", cell: (row) => isolated(row.id) },
  { kind: "reason", title: "Reason", cell: (row) => row.reason },
]);

/** Show an answer; known: the open model, null = not ready. */
export function showAnswer(found, known) {
  answer = found;
  model = known;
  answer.results.forEach((row, at) => { row.number = at + 1; });
  $("results-title").textContent = resultsTitle();
  const { name, variant, provider, sha256 } = answer.model;
  const calls = hasCalls(answer) ? `${callWords()} ` : "";
  $("results-model").textContent = `${calls}${headWords()}${panelWords()}`
    + `Scored by ${name}. Scores are shown with ${DECIMALS} decimals; the CSV has every digit.${chargeWords()}`;
  $("results-engine-text").textContent = `Bundle ${sha256}, variant ${variant}, provider ${provider}.`;
  $("reading").hidden = !answer.notes.length;
  $("reading").textContent = answer.notes.join("\n");
  $("flagged").hidden = !flaggedRows().length;
  $("flagged").textContent = flagWords();
  const formulas = [...answer.results, ...answer.rejected].filter((row) => /^[=+\-@\t\r]/.test(row.id)).length;
  $("formulas").hidden = !formulas;
  $("formulas").textContent = `${plural(formulas, "id begins", "ids begin")} with =, +, - or @, `
    + "which a spreadsheet may take for a formula. The CSV has ids as they were given: import its columns as text.";
  $("results").hidden = false;
  $("rejected").hidden = !answer.rejected.length;
  $("rejected-title").textContent = `${plural(answer.rejected.length, "record")} left out`;
  rejectedTable.show(answer.rejected);
  scoresTable = tableOf(answer);
  for (const id of ["find", "call", "flag"]) $(id).value = "";
  filterScores();
  drawHistogram(answer, model);
  showAssessment(answer);
  say(`Done: ${resultsTitle()}.`);
  $("results-title").focus();
}

const flaggedRows = () => answer.results.filter((row) => row.flag);

/** How scores become calls. */
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
  const flagged = flaggedRows().length ? `, ${whole(flaggedRows().length)} flagged${withoutCall()}` : "";
  const left = answer.rejected.length ? `, ${whole(answer.rejected.length)} left out` : "";
  const scored = `${plural(answer.results.length, answer.chains.length > 1 ? "pair" : "sequence")} scored`;
  const calls = hasCalls(answer) ? `, ${counted("non-specific")} called non-specific${uncertain}` : "";
  return `${scored}${calls}${flagged}${left}`;
}

/** How many of the flagged rows have no call, as the command's summary says it: a nanobody-like row keeps its call. */
function withoutCall() {
  if (!hasCalls(answer)) return "";
  const without = answer.results.filter((row) => !called(row)).length;
  return without ? `, ${whole(without)} without a call` : ", none without a call";
}

/** What the columns of heads that give values mean; "" without such a head. */
function headWords() {
  const words = answer.heads.filter(({ unit }) => unit).map(({ name, unit, higher_is_worse: higher }) =>
    `${name} is in ${unit}; ${higher ? "higher" : "lower"} is worse. `);
  return words.join("");
}

/** What the column of net charges means; "" without it. */
const chargeWords = () => (answer.results.some((row) => row.added)
  ? " Net charge is that of the domain at pH 7.4, in elementary charges." : "");

/** What the column of percentiles means; "" without a panel. */
function panelWords() {
  if (!answer.panel) return "";
  const { name, rows, source } = answer.panel;
  return `A percentile is the share of the panel ${name} that scores lower, in percent. It is a 95 % interval, `
    + `because the panel has ${plural(rows, "row")} (${source}); "in panel" marks a sequence of the panel itself. `;
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

/** Say that the answer that is shown belongs to an earlier request. */
export function markEarlier() {
  if (answer) $("results-title").textContent = `Earlier: ${resultsTitle()}`;
}

/** Whether the answer that is shown is of this model. */
export const isOf = (known) => answer.model.sha256 === known?.sha256;

/** Draw what depends on the model again. */
export function useModel(known) {
  model = known;
  drawHistogram(answer, model);
}

/** Listen to filters and downloads, and redraw pictures if the width of the page changes. */
export function listenToResults() {
  $("find").addEventListener("input", filterScores);
  $("call").addEventListener("change", filterScores);
  $("flag").addEventListener("change", filterScores);
  $("whole").addEventListener("change", () => $("scores").classList.toggle("whole", $("whole").checked));
  $("download").addEventListener("click", () => downloadScores(answer));
  $("download-rejected").addEventListener("click", () => downloadRejected(answer));
  let drawnWidth = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (answer && contentRect.width !== drawnWidth) {
      drawHistogram(answer, model);
      drawAssessment();
    }
    drawnWidth = contentRect.width;
  }).observe($("results"));
  listenToAssessment();
}
