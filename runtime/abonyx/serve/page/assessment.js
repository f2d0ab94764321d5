// The scores against the labels of the input: ROC, and the calls at a threshold that moves without scoring again.

import { $, DECIMALS, draw, make, percent, plural, whole } from "./dom.js";
import { called, hasCalls } from "./scores.js";

let rows = []; // {p, label} of the rows that are used
let usual = 0; // the threshold of the answer
let moved = 0; // the threshold that is shown; the field may hold something else

/** Show the assessment of an answer; nothing without labels. */
export function showAssessment(answer) {
  rows = [];
  $("assessment").hidden = answer.labels === null;
  if ($("assessment").hidden) return;
  for (const id of ["assessment-body", "roc-missing", "trained"]) $(id).hidden = true;
  if (!hasCalls(answer)) {
    $("assessment-words").textContent = `Column "${answer.labels}" has labels of 0 and 1, and the first head gives values: it makes no `
      + "calls, so there is nothing to compare.";
    return;
  }
  const labelled = answer.results.filter(({ label }) => label !== null);
  const used = labelled.filter(called);
  rows = used.map(({ p_nonspecific: p, label }) => ({ p, label }));
  usual = answer.threshold;
  const left = {
    "labelled row has no call, because it is flagged": labelled.length - used.length,
    "row has no label": answer.results.length - labelled.length,
    "record could not be scored": answer.rejected.length,
  };
  const words = Object.entries(left).filter(([, count]) => count).map(([what, count]) => `${whole(count)} ${count === 1 ? what : many(what)}`);
  $("assessment-words").textContent = `Labels: column "${answer.labels}" (1 non-specific, 0 specific). ${plural(rows.length, "row is", "rows are")} used: `
    + `${whole(positives())} non-specific, ${whole(rows.length - positives())} specific. `
    + (words.length ? `Left out: ${words.join("; ")}.` : "No row is left out.");
  $("assessment-body").hidden = !rows.length;
  showMissing();
  showTrained(used, answer.domain);
  drawAssessment();
  setThreshold(usual);
}

const many = (what) => what.replace("row has", "rows have").replace("it is flagged", "they are flagged")
  .replace("record", "records");
const positives = () => rows.filter(({ label }) => label === 1).length;

/** The corners of the ROC curve, from (0, 0) to (1, 1): [false positive rate, true positive rate]; equal scores are one step. */
function corners() {
  const sorted = [...rows].sort((a, b) => b.p - a.p);
  const [ones, zeros] = [positives(), rows.length - positives()];
  const found = [[0, 0]];
  let hits = 0, alarms = 0;
  sorted.forEach(({ p, label }, at) => {
    if (label) hits += 1;
    else alarms += 1;
    if (sorted[at + 1]?.p !== p) found.push([alarms / zeros, hits / ones]);
  });
  return found;
}

/** The area under the corners. */
const areaOf = (found) => found.slice(1).reduce(
  (sum, [x, y], at) => sum + (x - found[at][0]) * (y + found[at][1]) / 2, 0);

/** Whether all rows are of one class, or there are none. */
const single = () => !positives() || positives() === rows.length;

/** Say why there is no ROC. */
function showMissing() {
  $("roc-missing").hidden = !single();
  $("roc-missing").textContent = rows.length
    ? `No ROC: ${rows.length === 1 ? "the only used row is" : `all ${whole(rows.length)} used rows are`} labelled ${positives() ? "non-specific" : "specific"}, and a curve needs both classes.`
    : "No ROC: no row has a label and a call.";
}

/** Say how many of the used rows the head was trained on. */
function showTrained(used, domain) {
  const known = used.every(({ training_row: trained }) => typeof trained === "boolean");
  const count = used.filter(({ training_row: trained }) => trained).length;
  $("trained").hidden = !used.length || (known && !count);
  $("trained").textContent = trainedWords(known, count, used.length, domain);
}

function trainedWords(known, count, rows, domain) {
  if (known) return `The model was trained on ${whole(count)} of these ${plural(rows, "row")}, so the curve and the counts flatter it.`;
  const flatter = "the curve and the counts flatter it.";
  const unseen = "Domains were not looked for, so a training row with a tag is not recognised.";
  if (domain === "off" && count) return `The model was trained on at least ${whole(count)} of these ${plural(rows, "row")}, so ${flatter} ${unseen}`;
  if (domain === "off") return `It is not known whether the model was trained on these rows. If it was, ${flatter} ${unseen}`;
  return `Whether the model was trained on these rows is not recorded in its bundle. If it was, ${flatter}`;
}

/** Draw the ROC curve again, as wide as the page leaves it. */
export function drawAssessment() {
  if ($("assessment-body").hidden) return;
  $("roc").hidden = single();
  if (single()) return;
  const found = corners();
  $("roc-title").textContent = `ROC AUC ${areaOf(found).toFixed(DECIMALS)} (n = ${whole(rows.length)})`;
  const side = Math.max(200, Math.min($("roc").clientWidth || 300, 320)), left = 60, edge = 40;
  const x = (rate) => left + rate * (side - left - 10), y = (rate) => side - edge - rate * (side - edge - 10);
  const svg = draw("svg", { viewBox: `0 0 ${side} ${side}`, width: side, role: "img", "aria-labelledby": "roc-title" });
  for (const rate of [0, 0.5, 1]) {
    svg.append(draw("path", { class: rate ? "grid" : "axis", d: `M${x(0)} ${y(rate)}H${x(1)}` }));
    svg.append(draw("path", { class: rate ? "grid" : "axis", d: `M${x(rate)} ${y(0)}V${y(1)}` }));
    svg.append(draw("text", { x: x(rate), y: y(0) + 16, "text-anchor": rate === 1 ? "end" : "middle" }, percent(rate)));
    if (rate) svg.append(draw("text", { x: x(0) - 4, y: y(rate) + 4, "text-anchor": "end" }, percent(rate)));
  }
  svg.append(draw("path", { class: "chance", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }));
  svg.append(draw("path", { class: "roc", d: `M${found.map(([a, b]) => `${x(a)} ${y(b)}`).join("L")}` }));
  svg.append(draw("circle", { class: "roc-point", id: "roc-point", r: 6 }));
  svg.append(draw("text", { x: x(0.5), y: side - 6, "text-anchor": "middle" }, "specific called non-specific"));
  svg.append(draw("text", { x: 14, y: y(0.5), "text-anchor": "middle", transform: `rotate(-90 14 ${y(0.5)})` }, "non-specific found"));
  $("roc-plot").replaceChildren(svg);
  Object.assign($("roc-plot"), { place: ([a, b]) => [x(a), y(b)] });
  movePoint();
}

/** Rows by label and call: {found, missed, alarms, clear}. As in the service, both numbers are compared as float32. */
function countsAt(threshold) {
  const counts = { found: 0, missed: 0, alarms: 0, clear: 0 };
  for (const { p, label } of rows) {
    const above = Math.fround(p) > Math.fround(threshold);
    counts[label ? (above ? "found" : "missed") : above ? "alarms" : "clear"] += 1;
  }
  return counts;
}

const share = (part, all) => (all ? `${percent(part / all)} (${whole(part)} of ${whole(all)})` : "there are none");

/** Show the calls at a threshold. */
function setThreshold(value) {
  moved = value;
  if ($("moved").value === "" || Number($("moved").value) !== value) $("moved").value = value; // not while it is typed in
  showUnusable();
  $("slider").value = value;
  $("back").textContent = `Back to ${usual}`;
  $("back").disabled = value === usual;
  const { found, missed, alarms, clear } = countsAt(value);
  for (const [id, count, word] of [["found", found, "right"], ["missed", missed, "wrong: missed"],
    ["alarms", alarms, "wrong: false alarm"], ["clear", clear, "right"]]) {
    $(`cell-${id}`).replaceChildren(make("strong", {}, whole(count)), ` ${word}`);
  }
  $("rates").textContent = `At ${value}: of the non-specific, ${share(found, found + missed)} are found (sensitivity); `
    + `of the specific, ${share(clear, clear + alarms)} are called specific (specificity); `
    + `right in all: ${share(found + clear, rows.length)}.`;
  movePoint();
}

function movePoint() {
  const point = $("roc-point");
  if (!point || $("roc").hidden) return;
  const { found, missed, alarms, clear } = countsAt(moved);
  const [x, y] = $("roc-plot").place([alarms / (alarms + clear), found / (found + missed)]);
  point.setAttribute("cx", x);
  point.setAttribute("cy", y);
}

const usable = () => $("moved").value !== "" && $("moved").validity.valid;

/** Say which threshold is shown if the field does not hold one. */
function showUnusable() {
  $("moved").setAttribute("aria-invalid", String(!usable()));
  $("moved-problem").textContent = usable() ? "" : `The field needs a number from 0 to 1. The threshold that is shown is ${moved}.`;
  $("moved-problem").hidden = usable();
}

/** Have slider, field and button move the threshold. */
export function listenToAssessment() {
  $("slider").addEventListener("input", () => setThreshold(Number($("slider").value)));
  $("moved").addEventListener("input", () => {
    if (usable()) setThreshold(Number($("moved").value));
    else showUnusable();
  });
  $("back").addEventListener("click", () => {
    setThreshold(usual);
    $("slider").focus(); // a disabled button would lose the focus to the page
  });
}
