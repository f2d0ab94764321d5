// Files to download, with the same digits and columns as those of the command line.

import { make } from "./dom.js";

/** A float32 as the command line writes it: the shortest decimal that reads back as the same number. */
function decimal(value) {
  const single = Math.fround(value);
  let digits = 0;
  while (Math.fround(Number(single.toExponential(digits))) !== single) digits += 1;
  return spelled(single, single.toExponential(digits));
}

/** A number as Python spells it: 0.0, -0.0, 2.5e-06; exponential: its digits. */
function spelled(number, exponential = number.toExponential()) {
  if (Object.is(number, -0)) return "-0.0";
  const [mantissa, exponent] = exponential.split("e");
  const value = Number(exponential), size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e16)) return `${mantissa}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** One line of CSV; a row with a carriage return is quoted whole, which every reader takes. */
export function csvLine(cells) {
  const texts = cells.map(String);
  const all = texts.some((text) => text.includes("\r"));
  return texts.map((text) => (all || /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(",") + "\n";
}

function download(name, header, rows) {
  const blob = new Blob([header, ...rows].map(csvLine), { type: "text/csv" });
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `${name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The names of a head's columns, as results have them. */
function columnsOf({ name, kind }, first) {
  if (kind !== "logistic") return [`${name}_value`, `${name}_percentile`];
  const rest = ["nonspecific", "call", "percentile"];
  return first ? ["p_nonspecific", ...rest] : [`${name}_p`, ...rest.map((column) => `${name}_${column}`)];
}

export function downloadScores(answer) {
  const columns = answer.heads.map((head, at) => columnsOf(head, at === 0));
  const [leading, following] = [columns[0], columns.slice(1).flat()];
  const chains = answer.chains.length > 1 ? ["heavy", "light"] : ["sequence"];
  const added = Object.keys(answer.results[0]?.added ?? {});
  const names = ["id", ...chains, ...leading, "flag", ...following, ...added, ...(answer.trim ? ["domain"] : [])];
  const numbers = ["p_nonspecific", "charge", ...columns.flat().filter((name) => /_(p|value)$/.test(name))];
  const cells = (row) => {
    const all = { ...row, ...row.heads, ...row.added };
    return names.map((name) => (numbers.includes(name) && all[name] !== null ? decimal(all[name]) : all[name] ?? ""));
  };
  download("scores", names, answer.results.map(cells));
}

export function downloadRejected(answer) {
  download("scores.rejected", ["id", "line", "reason"], answer.rejected.map((row) => [row.id, row.line, row.reason]));
}

/** The columns of scan.csv, and in each row how far the order of mutants can be trusted: a row may be read without this page. */
export function downloadScan({ parent, heads, columns, statement }) {
  const scores = heads.map(({ column }) => column);
  const numbers = ["charge_change", "pI_change", "repertoire_share",
    ...heads.flatMap(({ name }) => [`${name}_change`, `${name}_without_charge`])];
  const all = { ...columns, statement: columns.statement ?? columns.mutant.map(() => statement) };
  const cell = (name, value) => {
    if (value === null) return "";
    if (scores.includes(name)) return decimal(value);
    return numbers.includes(name) ? spelled(value) : value;
  };
  const names = Object.keys(all);
  download("scan", ["id", ...names], columns.mutant.map((_, at) => [parent.id, ...names.map((name) => cell(name, all[name][at]))]));
}
