// Files to download, with the command line's bytes.

import { make } from "./dom.js";

/** p as the command line writes it: the shortest decimal that reads back as the same float32, as Python spells it. */
function decimal(p) {
  const single = Math.fround(p);
  let digits = 0;
  while (Math.fround(Number(single.toExponential(digits))) !== single) digits += 1;
  const [mantissa, exponent] = single.toExponential(digits).split("e-");
  if (single && single < 1e-4) return `${mantissa}e-${exponent.padStart(2, "0")}`;
  const text = String(Number(single.toExponential(digits)));
  return text.includes(".") ? text : `${text}.0`;
}

/** One line of CSV; a row with a carriage return is quoted whole, which every reader takes. */
export function csvLine(cells) {
  const texts = cells.map(String);
  const all = texts.some((text) => text.includes("\r"));
  return texts.map((text) => (all || /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(",") + "\n";
}

function download(suffix, header, rows) {
  const blob = new Blob([header, ...rows].map(csvLine), { type: "text/csv" });
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `scores${suffix}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function downloadScores(answer) {
  const names = ["id", "sequence", "p_nonspecific", "nonspecific", "call", "flag", ...(answer.trim ? ["domain"] : [])];
  const cells = (row) => ({ ...row, p_nonspecific: decimal(row.p_nonspecific), nonspecific: row.nonspecific ?? "", call: row.call ?? "" });
  download("", names, answer.results.map(cells).map((row) => names.map((name) => row[name])));
}

export function downloadRejected(answer) {
  download(".rejected", ["id", "line", "reason"], answer.rejected.map((row) => [row.id, row.line, row.reason]));
}
