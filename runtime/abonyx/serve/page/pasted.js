// What a pasted text is: a file that the service reads unchanged, one sequence per line, or a table without a header.

import { csvLine } from "./files.js";

// A cell of the first line counts as a sequence from this length on: names of columns are shorter or have other signs.
const FEWEST_RESIDUES = 20;
const DELIMITERS = ["\t", ",", ";"];
const MISSING = new Set(["", "na", "n/a", "#n/a", "<na>", "nan", "-", "none", "null"]); // as the service reads a table's ids

const filled = (cell) => Boolean(cell.trim());

/** Whether text is a sequence rather than a column's name. */
export function isSequence(text) {
  const line = text.trim().replaceAll(/[\r\n]+/g, "");
  return line.length >= FEWEST_RESIDUES && /^([A-Z*.-]+|[a-z*.-]+)$/.test(line);
}

/** Rows {cells, line}, also blank ones; null if quotes are not around whole cells, as a spreadsheet writes them. */
function rowsOf(text, delimiter) {
  const open = `[^"\\r\\n${delimiter}][^\\r\\n${delimiter}]*`;
  const pattern = new RegExp(`(?:"([^"]*(?:""[^"]*)*)"|(${open})?)(${delimiter}|\\r\\n?|\\n|$)`, "y");
  const rows = [];
  let cells = [], line = 1, start = 1;
  while (pattern.lastIndex < text.length || cells.length) {
    const found = pattern.exec(text);
    if (!found) return null;
    const [all, quoted, bare = "", end] = found;
    cells.push(quoted?.replaceAll('""', '"') ?? bare);
    line += all.match(/\r\n?|\n/g)?.length ?? 0;
    if (end === delimiter) continue;
    rows.push({ cells, line: start });
    cells = [];
    start = line;
  }
  return rows;
}

/**
 * What a text is:
 *   {kind: "file", text}: FASTA, or a table with a header, for the service to read,
 *   {kind: "lines", count}: one sequence per line,
 *   {kind: "rows", names, rows}: a table without a header; rows are {cells, line}, names are made up.
 */
export function readPasted(given) {
  const text = given.replace(/^\ufeff/, "");
  const first = text.match(/[^\r\n]*\S[^\r\n]*/)?.[0] ?? "";
  const delimiter = DELIMITERS.find((each) => first.includes(each));
  const table = /^\s*[>#;{[]/.test(first) ? null : rowsOf(text, delimiter ?? "\t");
  const rows = table?.filter(({ cells }) => cells.some(filled)) ?? [];
  if (!rows.length) return { kind: "file", text };
  const { cells } = rows[0];
  const spans = rows.some((row) => row.cells.some((cell) => /[\r\n]/.test(cell)));
  if (cells.some(isSequence)) {
    if (!delimiter && !spans) return { kind: "lines", count: rows.length };
    return { kind: "rows", rows, names: cells.map((_, at) => `column ${at + 1}`) };
  }
  // The service splits a table with tabs at each line end, so cells of several lines go to it as CSV.
  const asCsv = spans && !DELIMITERS.slice(1).includes(delimiter) && rows.every((row) => row.cells.length === cells.length);
  const csv = ({ cells: each }) => (each.some(filled) ? csvLine(each) : "\n");
  return { kind: "file", text: asCsv ? table.map(csv).join("") : text };
}

/** The names of the columns of a table without a header whose first cell is a sequence. */
export const likelyOf = ({ names, rows }) => names.filter((_, at) => isSequence(rows[0].cells[at]));

/** The places {sequence, id} of a headerless table's columns, id -1: none; null if it is not clear which they are. */
export function placesOf({ names, rows }, sequenceName, idName) {
  const likely = likelyOf({ names, rows });
  const clear = likely.length === 1 && names.length <= 2 ? names.indexOf(likely[0]) : -1;
  const sequence = sequenceName ? names.indexOf(sequenceName) : clear;
  const other = names.length === 2 && !sequenceName ? 1 - sequence : -1;
  const id = idName ? names.indexOf(idName) : other;
  return sequence < 0 || (idName && id < 0) ? null : { sequence, id };
}

/** As placesOf, for pairs: {heavy, light, id}. Both columns have to be named, because nothing tells them apart. */
export function placesOfPairs({ names }, heavyName, lightName, idName) {
  const [heavy, light, id] = [heavyName, lightName, idName].map((name) => names.indexOf(name));
  return heavy < 0 || light < 0 || (idName && id < 0) ? null : { heavy, light, id };
}

/** The items of a table without a header, for JSON; a missing id becomes the number of its row. */
export function itemsOf({ rows }, { id, ...chains }) {
  return rows.map(({ cells }, at) => {
    const name = cells[id] ?? "";
    const texts = Object.entries(chains).map(([chain, place]) => [chain, cells[place] ?? ""]);
    return { id: MISSING.has(name.trim().toLowerCase()) ? String(at + 1) : name, ...Object.fromEntries(texts) };
  });
}
