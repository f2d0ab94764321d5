// All single mutants of a row's sequence, scored on request: two heat maps, the same in numbers, and a CSV. It recommends
// no mutant.

import { DECIMALS, dataTable, make, plural, say, signed, whole } from "./dom.js";
import { downloadScan } from "./files.js";
import { RESIDUES, chart, endOf, legend } from "./heatmap.js";
import { Refused, ask, lastLine, otherModelWords } from "./server.js";

const CHOICES = [["CDRs", "cdr"], ["Framework", "framework"], ["All of the domain", "all"], ["IMGT positions", "list"]];
const NOTE = "nanobody-like"; // a record with only this flag keeps its call
const WHY_NOT = "A scan recommends no mutant: much of the change of a score only reflects the change of charge, which needs "
  + "no model. To choose a mutant, measure it.";

/** The part of an opened row that scans it: {element, useHead(head), redraw()}; closed: a signal that ends a scan. */
export function scanOf(row, answer, id, closed) {
  const parts = partsOf(id);
  const state = { row, answer, id, closed, head: answer.heads[0], running: null, redraw: () => {}, markEarlier: () => false };
  parts.positions.addEventListener("change", () => {
    parts.listed.hidden = parts.positions.value !== "list";
    parts.list.required = !parts.listed.hidden;
  });
  parts.form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.running) run(state, parts);
  });
  parts.cancel.addEventListener("click", () => state.running?.abort());
  closed.addEventListener("abort", () => state.running?.abort());
  const useHead = (head) => {
    state.head = head;
    const paired = head.chains.length > 1;
    parts.form.hidden = paired;
    parts.unscanned.hidden = !paired;
    parts.unscanned.textContent = `A scan changes one chain, and ${head.name} scores both. Choose a head of one chain, if there is one.`;
  };
  return { element: parts.element, useHead, redraw: () => state.redraw() };
}

function partsOf(id) {
  const positions = make("select", { id: `${id}-positions` }, ...CHOICES.map(([text, value]) => new Option(text, value)));
  const list = make("input", { type: "text", id: `${id}-list`, placeholder: "27,57,105-117", autocomplete: "off", maxlength: 1000 });
  const listed = make("div", { hidden: "" }, make("label", { for: list.id }, "Which"), list);
  const start = make("button", {}, "Scan mutants");
  const form = make("form", { class: "fields" },
    make("div", {}, make("label", { for: positions.id }, "Positions to mutate"), positions), listed, start);
  const bar = make("progress", { "aria-label": "Mutants scored" }), counted = make("span");
  const cancel = make("button", { type: "button" }, "Cancel");
  const progress = make("div", { class: "progress", hidden: "" }, bar, counted, cancel);
  const unscanned = make("p", { class: "hint", hidden: "" });
  const problem = make("div", { class: "note", role: "alert", hidden: "" });
  const result = make("div", { class: "inner" });
  const title = make("h4", { id: `${id}-title` }, "What a mutation changes");
  const hint = make("p", { class: "hint" }, "A scan scores every single mutant, and shows how it changes the charge. It recommends none.");
  const element = make("section", { class: "scan", "aria-labelledby": title.id }, title, hint, form, unscanned, progress, problem, result);
  return { element, form, positions, listed, list, start, bar, counted, cancel, progress, unscanned, problem, result };
}

/** One scan, from the button to its result, its problem, or the user's cancelling. */
async function run(state, parts) {
  const { row, head } = state;
  state.running = new AbortController();
  parts.start.disabled = true;
  parts.problem.hidden = true;
  parts.progress.hidden = false;
  parts.bar.removeAttribute("value");
  parts.counted.textContent = "making the mutants";
  parts.cancel.focus();
  const earlier = state.markEarlier();
  say(`Scanning the mutants of ${row.id}.`);
  let next = parts.start; // what has the focus afterwards
  try {
    const found = await answerOf(state, parts);
    next = show(state, parts, found);
    say(`${plural(found.mutants, "mutant")} of ${row.id} scored with ${head.name}. No mutant is recommended.`);
  } catch (error) {
    if (error instanceof Refused) refuse(parts, error, state);
    else if (error.name !== "AbortError") throw error;
    else say(`Cancelled: ${earlier ? "what is shown is the earlier scan" : "no mutant is shown"}.`);
  } finally {
    state.running = null;
    parts.start.disabled = false;
    parts.progress.hidden = true;
    if (next.isConnected) next.focus();
  }
}

async function answerOf({ row, answer, head, running }, parts) {
  const { id, sequence, heavy, light } = row;
  const record = sequence === undefined ? { id, heavy, light } : { id, sequence };
  const positions = parts.positions.value === "list" ? parts.list.value : parts.positions.value;
  const { domain, trim } = answer;
  const body = JSON.stringify({ ...record, positions, heads: [head.name], domain, trim });
  const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson" };
  const response = await ask("v1/scan", { method: "POST", headers, body, signal: running.signal });
  return lastLine(response, ({ done, total }) => {
    if (!parts.element.isConnected) running.abort(); // its row was sorted or filtered away
    parts.bar.max = total;
    parts.bar.value = done;
    parts.counted.textContent = `${whole(done)} of ${plural(total, "sequence")}`;
  }, "columns");
}

function refuse({ problem }, { problem: { title, detail = "", fix = "" } }, { row }) {
  const again = row.flag ? [make("p", {}, "A scan uses the settings of the table: if you change one, score again first.")] : [];
  problem.replaceChildren(make("strong", {}, `Nothing was scanned: ${title}`), make("p", {}, detail), make("p", {}, fix), ...again);
  problem.hidden = false;
}

/** Show a scan; returns its title, which takes the focus. */
function show(state, { result }, found) {
  const [head] = found.heads;
  const unit = head.unit ?? "logits";
  const { places, mutants } = mutantsOf(found, head);
  const maps = [{ caption: `Change of the score, mutant minus parent (${unit})`, valueOf: ({ change }) => change }];
  if (head.charge) maps.push({ caption: `What the change of charge does not explain (${unit})`, valueOf: ({ rest }) => rest });
  const end = endOf([...mutants.values()].flatMap((mutant) => maps.map(({ valueOf }) => valueOf(mutant))), head.sd);
  const figures = maps.map((map, at) => figureOf(map, places, mutants, { end, id: `${state.id}-map-${at}` }));
  const score = Number(head.parent.toPrecision(3));
  const parent = head.unit ? `${score} ${head.unit}` : `p ${score}`;
  const words = `${plural(found.mutants, "single mutant")} of ${found.parent.id}: ${head.name}, parent ${parent}`;
  const title = make("h4", { tabindex: "-1" }, words);
  const other = otherModelWords(found, state.answer);
  const save = make("button", { type: "button" }, "Download the scan as CSV");
  save.addEventListener("click", () => downloadScan(found));
  const numbers = make("details", {}, make("summary", {}, "The same in numbers"));
  numbers.addEventListener("toggle", () => { // thousands of cells, made only if they are opened
    if (numbers.children.length === 1) numbers.append(...maps.map((map) => tableOf(map, places, mutants)));
  });
  result.replaceChildren(title, ...(other ? [make("p", { class: "note" }, other)] : []),
    make("p", { class: "note" }, make("strong", {}, found.statement), ` ${WHY_NOT}`),
    make("p", {}, `${head.words}.`), make("p", {}, warningWords(found)),
    legend(end, unit), make("div", { class: "columns" }, ...figures.map(({ figure }) => figure)),
    make("div", {}, save), numbers);
  state.markEarlier = () => {
    title.textContent = `Earlier: ${words}`;
    return true;
  };
  state.redraw = () => figures.forEach(({ redraw }) => redraw());
  state.redraw();
  return title;
}

/** The positions of a scan, and its mutants by position and new residue. */
function mutantsOf({ columns }, { name }) {
  const places = new Map(), mutants = new Map();
  columns.mutant.forEach((residue, at) => {
    const of = (column) => columns[column][at];
    const position = of("position");
    places.set(position, { position, imgt: of("imgt"), region: of("region"), residue: of("wild_type") });
    mutants.set(`${position}${residue}`, {
      change: of(`${name}_change`), rest: of(`${name}_without_charge`), charge: of("charge_change"),
      marks: [
        of("flag"), of("new_glycosylation_motif") && "new N-glycosylation motif", of("unpaired_cysteine") && "unpaired cysteine",
        of("conserved_position") && "conserved position", of("seen_in_repertoire") === 0 && "rare in human heavy chains",
      ].filter(Boolean),
    });
  });
  return { places: [...places.values()], mutants };
}

/** How many mutants have something that a score does not show. */
function warningWords({ columns, mutants, domain }) {
  const count = (column) => whole(columns[column].filter(Boolean).length);
  const known = columns.seen_in_repertoire.some((seen) => seen !== null); // of heavy chains
  const rare = columns.seen_in_repertoire.filter((seen) => seen === 0).length;
  const noted = columns.flag.filter((flag) => flag === NOTE).length;
  const flagged = whole(columns.flag.filter(Boolean).length - noted);
  const found = [
    ...(domain === "off" ? [] : [`${flagged} flagged`]), ...(noted ? [`${whole(noted)} ${NOTE}, which is a note`] : []), `${count("new_glycosylation_motif")} with a new N-glycosylation motif`,
    `${count("unpaired_cysteine")} with an unpaired cysteine`, `${count("conserved_position")} at a conserved position`,
    ...(known ? [`${whole(rare)} with a residue that is rare there in human heavy chains`] : []),
  ];
  return `Of ${plural(mutants, "mutant")}: ${found.join(", ")}. The CSV marks each.`;
}

/** One map; redraw() fits it to the width of the page. */
function figureOf({ caption, valueOf }, places, mutants, { end, id }) {
  const cellOf = ({ position, imgt, region, residue }, to) => {
    const mutant = mutants.get(`${position}${to}`);
    if (!mutant) return null;
    const { change, rest, charge, marks } = mutant;
    const left = rest === null ? "" : `, without charge ${signed(rest, DECIMALS)}`;
    const notes = marks.length ? `; ${marks.join(", ")}` : "";
    const where = region ? ` (${region})` : "";
    const text = `${residue}${imgt || position}${to}${where}: change ${signed(change, DECIMALS)}${left}; charge ${signed(charge, 1)}${notes}`;
    return { value: valueOf(mutant), text };
  };
  const plot = make("div", { class: "map" });
  let width = 0;
  const redraw = () => {
    if (!plot.clientWidth || plot.clientWidth === width) return; // 0: it was taken off the page
    width = plot.clientWidth;
    plot.replaceChildren(chart(places, cellOf, { end, width, labelledBy: id }));
  };
  return { figure: make("figure", {}, make("figcaption", { id }, caption), plot), redraw };
}

/** A map as a table: a row for each position, a column for each new residue. */
function tableOf({ caption, valueOf }, places, mutants) {
  const number = (place, residue) => {
    if (place.residue === residue) return "own";
    const mutant = mutants.get(`${place.position}${residue}`);
    return mutant ? signed(valueOf(mutant), 2) : "-";
  };
  const rows = places.map((place) => [
    `${place.residue}${place.imgt || place.position} ${place.region}`, ...RESIDUES.map((residue) => number(place, residue)),
  ]);
  return dataTable(caption, ["Position", ...RESIDUES], rows);
}
