// The input: a pasted text or a file, the columns of a table, and the request made from them.

import { $, make, plural, say, size } from "./dom.js";
import { isSequence, itemsOf, likelyOf, placesOf, placesOfPairs, readPasted } from "./pasted.js";

const EXAMPLE = `>trastuzumab
EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS
>adalimumab
EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS
>bevacizumab
EVQLVESGGGLVQPGGSLRLSCAASGYTFTNYGMNWVRQAPGKGLEWVGWINTYTGEPTYAADFKRRFTFSLDTSKSTAYLQMNSLRAEDTAVYYCAKYPHYYGSSHWYFDVWGQGTLVTVSS
`;
const LONGEST_EXAMPLE = 24; // of a cell, in the name of a column without one
const EXAMPLE_LIGHT = `DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK
DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK
DIQMTQSPSSLSASVGDRVTITCSASQDISNYLNWYQQKPGKAPKVLIYFTSSLHSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQYSTVPWTFGQGTKVEIK`;
const COLUMNS = ["sequence-column", "id-column", "heavy-column", "light-column"];

let file = null;
let picked = false; // the picker named the columns, for this input alone
let offered = []; // the model's heads

/** Whether there is neither a file nor a text. */
export const isEmpty = () => !file && !$("text").value.trim();

export function chooseFile(chosen) {
  file = chosen;
  $("file").value = "";
  $("chosen").hidden = !file;
  for (const id of ["paste", "choose", "example", "drop-hint"]) $(id).hidden = Boolean(file);
  if (file) $("chosen-name").textContent = `${file.name}, ${size(file.size)}`;
  forgetPicked();
  noteText();
  say(file ? `Chosen: ${file.name}` : "The file was removed.");
  (file ? $("remove") : $("choose")).focus();
}

export function chooseThreshold() {
  const own = $("assay").value === "own";
  $("own").hidden = !own;
  $("threshold").disabled = !own;
}

const tickedHeads = () => [...$("heads").querySelectorAll(":checked")].map((box) => box.value);

/** Whether the requested heads need both chains of a record. */
export function paired() {
  const wanted = offered.filter(({ name }, at) => at === 0 || tickedHeads().includes(name));
  return new Set(wanted.flatMap(({ chains }) => chains)).size > 1;
}

/** Show the fields and the hint for the chains that these heads need. */
function showChains() {
  const both = paired();
  $("sequence-column").parentElement.hidden = both;
  for (const name of ["heavy-column", "light-column"]) $(name).parentElement.hidden = !both;
  noteText();
}

/** A box for each head except the first, which is always shown; ticked boxes stay ticked. */
export function offerHeads(heads) {
  const [first, ...others] = offered = heads;
  const ticked = tickedHeads();
  const boxes = others.map(({ name, unit }) => {
    const box = make("input", { type: "checkbox", id: `head-${name}`, value: name });
    box.checked = ticked.includes(name);
    const label = make("label", { for: box.id }, unit ? `${name} (${unit})` : name);
    return make("div", { class: "check" }, box, label);
  });
  $("heads").replaceChildren($("heads").firstElementChild, ...boxes);
  $("heads").dataset.first = first.name;
  $("heads").hidden = !others.length;
  showChains();
}

/** The example with both chains, as pairs in FASTA. */
function exampleOfPairs() {
  const light = EXAMPLE_LIGHT.split("\n");
  return EXAMPLE.replaceAll(/>(.*)\n(.*)\n/g, (_, id, heavy) => `>${id}|H\n${heavy}\n>${id}|L\n${light.shift()}\n`);
}

function useExample() {
  $("text").value = paired() ? exampleOfPairs() : EXAMPLE;
  $("text").focus();
  forgetPicked();
  noteText();
}

// --- the request

function options() {
  const chosen = { on_invalid: $("skip").checked ? "skip" : "fail" };
  if ($("trim").checked) chosen.trim = "domain";
  if ($("gaps").checked) chosen.gaps = "strip";
  if ($("assay").value === "own") chosen.threshold = Number($("threshold").value);
  else if ($("assay").value) chosen.assay = $("assay").value;
  const others = tickedHeads();
  if (others.length) chosen.heads = [$("heads").dataset.first, ...others]; // in a query the names have commas between them
  if (!paired()) chosen.with = ["charge"]; // the service gives it for single domains only
  return chosen;
}

/**
 * The request for scores: path, type and body; lines: for each item of JSON, its line in the text.
 * If the columns of a table without a header are not clear, it is {unclear}, for the picker.
 */
export function requestOf() {
  const query = options();
  const both = paired();
  const [single, id, heavy, light] = COLUMNS.map((name) => $(name).value);
  const sequence = both ? "" : single;
  const pasted = file ? { kind: "file" } : readPasted($("text").value);
  if (pasted.kind === "lines" && !sequence && !id) {
    return { path: `v1/score?${new URLSearchParams(query)}`, type: "text/plain", body: new Blob([$("text").value]) };
  }
  if (pasted.kind === "rows") {
    const places = both ? placesOfPairs(pasted, heavy, light, id) : placesOf(pasted, sequence, id);
    if (!places) return { unclear: unclearRows(pasted) };
    const body = new Blob([JSON.stringify({ sequences: itemsOf(pasted, places), ...query })]);
    return { path: "v1/score", type: "application/json", body, lines: pasted.rows.map(({ line }) => line) };
  }
  if (sequence) query.sequence_column = sequence;
  if (both && heavy) query.heavy_column = heavy;
  if (both && light) query.light_column = light;
  if (id) query.id_column = id;
  query.labels = "find";
  const body = file ?? new Blob([pasted.text ?? $("text").value]);
  return { path: `v1/score?${new URLSearchParams(query)}`, type: "application/octet-stream", body };
}

// --- the columns

function unclearRows({ names, rows }) {
  const likely = likelyOf({ names, rows });
  const label = (name, at) => {
    const cell = rows[0].cells[at].trim();
    return `${name}: ${cell.slice(0, LONGEST_EXAMPLE)}${cell.length > LONGEST_EXAMPLE ? "..." : ""}`;
  };
  const detail = "The first row holds a sequence, so the table has no header. Its columns are shown with their first cells.";
  const [sequence, light] = paired() ? likely : [likely.length === 1 ? likely[0] : ""];
  return { detail, columns: names, labels: names.map(label), sequence, light, without: "none: row numbers" };
}

/** What the picker shows for a problem of the service; null if there is nothing to pick. */
export function unclearProblem(problem) {
  const { columns, detail } = problem;
  if (!columns?.length) return null;
  if (columns.some(isSequence)) { // it is the first record: if a cell of it is picked, the record is lost
    problem.fix = "It has no header. Put a line with the names of its columns first, or paste its cells here.";
    return null;
  }
  return { detail, columns, labels: columns, sequence: "", without: "one called id or the like, else row numbers" };
}

/** Have the user pick the columns; the next request names them. */
export function showPicker({ detail, columns, labels, sequence = "", light = "", without }) {
  const choices = () => columns.map((column, at) => new Option(labels[at], column));
  const both = paired();
  $("picker-detail").textContent = detail;
  $("picker-title").textContent = both ? "Which columns hold the chains?" : "Which column holds the sequences?";
  $("picked-sequence-label").textContent = `Column of the ${both ? "heavy chains" : "sequences"}`;
  $("picked-light").parentElement.hidden = !both;
  $("picked-light").required = both;
  $("picked-light").replaceChildren(new Option("choose a column", ""), ...choices());
  $("picked-sequence").replaceChildren(new Option("choose a column", ""), ...choices());
  $("picked-id").replaceChildren(new Option(without, ""), ...choices());
  const [single, id, namedHeavy, namedLight] = COLUMNS.map((name) => $(name).value);
  const named = both ? namedHeavy : single;
  $("picked-sequence").value = columns.includes(named) ? named : sequence;
  $("picked-light").value = columns.includes(namedLight) ? namedLight : light;
  $("picked-id").value = columns.includes(id) ? id : "";
  $("picker").hidden = false;
  say("");
  $("picked-sequence").focus();
}

function pick(event) {
  event.preventDefault();
  const both = paired();
  $(both ? "heavy-column" : "sequence-column").value = $("picked-sequence").value;
  if (both) $("light-column").value = $("picked-light").value;
  $("id-column").value = $("picked-id").value;
  $("columns").open = true; // so that the user sees which columns are used
  $("picker").hidden = true;
  picked = true;
  noteText();
  $("input").requestSubmit();
}

/** Picked columns are for one input only; names that the user typed stay. */
function forgetPicked() {
  $("picker").hidden = true;
  if (picked) for (const name of COLUMNS) $(name).value = "";
  picked = false;
}

const usualNote = $("text-note").textContent;
const PAIRED_NOTE = "Both chains of a record: a table has a column for each, such as \"heavy\" and \"light\" or \"VH\" and "
  + "\"VL\", and \"id\" if there are ids; FASTA has >ID|H and >ID|L.";

/** Say how the text is read if it has no header. */
function noteText() {
  const pasted = file ? {} : readPasted($("text").value);
  const named = COLUMNS.some((name) => $(name).value);
  const taken = {
    lines: named ? null : `each line is read as a whole sequence, ${plural(pasted.count, "sequence")}`,
    rows: `each row is read as a record, ${plural(pasted.rows?.length ?? 0, "row")}`,
  }[pasted.kind];
  $("text-note").textContent = taken ? `No header: ${taken}.` : paired() ? PAIRED_NOTE : usualNote;
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

function listenToDrops(refuse) {
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!hasFiles(event)) return;
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (files.length === 1) chooseFile(files[0]);
    else refuse({ title: "One file at a time", detail: `${plural(files.length, "file")} were dropped.` });
  });
}

/** Listen to the form; refuse(problem) shows a problem. */
export function listen(refuse) {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => $("file").files.length && chooseFile($("file").files[0]));
  $("remove").addEventListener("click", () => chooseFile(null));
  $("example").addEventListener("click", useExample);
  $("assay").addEventListener("change", chooseThreshold);
  $("picker").addEventListener("submit", pick);
  $("heads").addEventListener("change", showChains);
  $("text").addEventListener("input", () => { forgetPicked(); noteText(); });
  for (const name of COLUMNS) $(name).addEventListener("input", () => { picked = false; noteText(); });
  listenToDrops(refuse);
}
