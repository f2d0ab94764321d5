// The table of an answer: its columns and their cells.

import { $, DECIMALS, isolated, make, signed, whole } from "./dom.js";
import { whyColumn } from "./explanation.js";
import { PagedTable } from "./table.js";

const NO_CALL = "No call: the model was not trained on such a record, so its score means nothing.";

// Whether the first head of a model or an answer makes calls.
export const hasCalls = ({ heads }) => heads[0].kind === "logistic";
export const called = (row) => row.call !== null;

/** The number, a bar, and the threshold on the bar. */
function measure(row, threshold) {
  const fill = make("div", { class: "fill" }), tick = make("div", { class: "tick" });
  fill.style.width = `${100 * row.p_nonspecific}%`;
  tick.style.left = `${100 * threshold}%`;
  const track = make("div", { class: "track", "aria-hidden": "true" }, fill, tick);
  return make("div", { class: "measure" }, make("span", {}, row.p_nonspecific.toFixed(DECIMALS)), track);
}

/** The call in words; without a call, a dash to see and words for a screen reader. */
function callOf(row) {
  if (called(row)) return row.call;
  const dash = make("span", { "aria-hidden": "true" }, "-");
  return make("span", { title: NO_CALL }, dash, make("span", { class: "hidden-text" }, "no call"));
}

/** The flag, and for a trimmed record the residues that were scored. */
function flagOf(row) {
  const trimmed = row.domain ? `residues ${row.domain} scored` : "";
  return [row.flag, trimmed].filter(Boolean).join("; ");
}

/** The column of percentiles in the answer's panel, if it has one; they are sorted by their scores. */
function percentilesOf({ panel }, title, cell, value) {
  return panel ? [{ kind: "percentile", title, named: true, value, descending: true, cell: (row) => cell(row) ?? "-" }] : [];
}

/** The columns of another head, or of a first head that gives values: percentile, call if it makes calls, number. */
function columnsOf({ name, kind, unit, threshold }, found) {
  const column = kind === "logistic" ? `${name}_p` : `${name}_value`;
  const value = (row) => row.heads[column];
  const cell = (row) => (kind === "logistic" ? value(row).toFixed(DECIMALS) : String(Number(value(row).toPrecision(4))));
  const number = { kind: "value", named: true, title: unit ? `${name} (${unit})` : `p ${name}`, value, descending: true, cell };
  const callRow = (row) => ({ call: row.heads[`${name}_call`] });
  const calls = threshold === null ? [] : [{
    kind: "call", title: `${name}: called`, named: true, cell: (row) => callOf(callRow(row)), cellClass: (row) => callClass(callRow(row)),
  }];
  return [...percentilesOf(found, `${name}: percentile`, (row) => row.heads[`${name}_percentile`], value), ...calls, number];
}

/** The sequence of a row, or both chains of a pair. */
export const sequencesOf = ({ sequence, heavy, light }) => (sequence === undefined ? [heavy, light] : [sequence]);

/** The net charge of the domain, if the answer has it; a record without a domain has none. */
function chargeOf({ results }) {
  if (!results.some(({ added }) => added && "charge" in added)) return [];
  const value = (row) => row.added.charge ?? Number.NEGATIVE_INFINITY;
  const cell = ({ added: { charge } }) => (charge === null ? "-" : signed(charge, 1));
  return [{ kind: "charge", title: "Net charge", named: true, value, descending: true, cell }];
}

const chainsOf = ({ chains }) => (chains.length > 1
  ? [
    { kind: "sequence", title: "Heavy chain", cell: (row) => row.heavy },
    { kind: "sequence", title: "Light chain", cell: (row) => row.light },
  ]
  : [{ kind: "sequence", title: "Sequence", cell: (row) => row.sequence }]);

const callClass = (row) => (called(row) ? row.call.replace("-", "") : "no-call");

/** The table of an answer: the columns of the first head before the flag, those of other heads after it. */
export function tableOf(found) {
  const [first, ...others] = found.heads;
  const bar = (row) => measure(row, found.threshold);
  const p = (row) => row.p_nonspecific;
  const usual = [
    ...percentilesOf(found, "Percentile", (row) => row.percentile, p),
    { kind: "call", title: "Called", cell: callOf, cellClass: callClass },
    { kind: "score", title: "p non-specific", value: p, descending: true, cell: bar },
  ];
  const leading = hasCalls(found) ? usual : columnsOf(first, found);
  const columns = [
    { kind: "number", title: "No.", value: (row) => row.number, cell: (row) => whole(row.number) },
    { kind: "id", title: "Id", value: (row) => row.id, cell: (row) => isolated(row.id) },
    ...leading,
    { kind: "flag", title: "Flag", value: (row) => row.flag, descending: true, cell: flagOf },
    ...chargeOf(found),
    whyColumn(found),
    ...others.flatMap((head) => columnsOf(head, found)),
    ...chainsOf(found),
  ];
  $("call-choice").hidden = !hasCalls(found);
  $("scores").replaceChildren();
  const sorted = columns.indexOf(leading.at(-1));
  return new PagedTable($("scores"), "Scores", columns, { rowClass: hasCalls(found) ? callClass : () => "", sorted });
}
