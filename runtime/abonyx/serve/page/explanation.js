// Why a row has its score: its contributions, which are requested when the row is opened.

import { chart } from "./contributions.js";
import { DECIMALS, dataTable, isolated, make, say, signed } from "./dom.js";
import { scanOf } from "./scan.js";
import { Refused, ask, otherModelWords, parsed, reached } from "./server.js";

const CHAINS = { H: "Heavy chain", L: "Light chain" };
const STRONGEST = 3;
const NOT_A_MUTATION = "A contribution is the share of the sum that passes through a residue's final state, and that state sees "
  + "the whole sequence. It is not the effect of a mutation, and not advice to change a residue.";

let opened = 0; // names each opened row

/** The column whose buttons open a row. */
export const whyColumn = (answer) => ({ kind: "why", title: "Why", cell: (row) => opener(row, answer) });

function opener(row, answer) {
  const button = make("button", { type: "button", class: "why", "aria-expanded": "false" }, "Explain",
    make("span", { class: "hidden-text" }, ` ${row.id}`));
  let close = null;
  button.addEventListener("click", () => {
    close = close ? close() : open(button, row, answer);
    button.setAttribute("aria-expanded", String(Boolean(close)));
  });
  return button;
}

/** Show below a row what its residues add; returns a function that closes it. */
function open(button, row, answer) {
  const line = button.closest("tr");
  const host = make("section", { class: "explained", id: `explained-${opened += 1}`, "aria-label": `Why ${row.id} has its score` });
  button.setAttribute("aria-controls", host.id);
  const detail = make("tr", { class: "detail", role: "row" }, make("td", { role: "cell", colspan: line.cells.length }, host));
  line.after(detail);
  const asking = new AbortController();
  const observer = new ResizeObserver(() => host.redraw?.());
  host.replaceChildren(make("p", {}, "Asking for the contributions."));
  say(`Asking for the contributions of ${row.id}.`);
  const scan = scanOf(row, answer, `${host.id}-scan`, asking.signal);
  explain(row, answer, asking.signal).then((found) => {
    show(host, found, row, answer, scan);
    observer.observe(host);
    say(`The contributions of ${row.id} are shown below its row.`);
  }).catch((error) => {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    const { title, detail: what = "", fix = "" } = error.problem;
    host.replaceChildren(make("div", { class: "note", role: "alert" }, make("strong", {}, `No contributions: ${title}`),
      make("p", {}, what), make("p", {}, fix)), scan.element);
    scan.useHead(answer.heads[0]);
    host.redraw = scan.redraw;
    observer.observe(host);
  });
  return () => {
    asking.abort();
    observer.disconnect();
    detail.remove();
    button.removeAttribute("aria-controls");
    return null;
  };
}

async function explain(row, answer, signal) {
  const { id, sequence, heavy, light } = row;
  const record = sequence === undefined ? { id, heavy, light } : { id, sequence };
  const { domain, trim } = answer;
  const body = JSON.stringify({ sequences: [record], heads: answer.heads.map(({ name }) => name), domain, trim });
  const headers = { "Content-Type": "application/json" };
  return parsed(await reached((await ask("v1/explain", { method: "POST", headers, body, signal })).text()));
}

/** Fill the section of a row; with several heads, the user chooses one. */
function show(host, found, row, answer, scan) {
  const [record] = found.results;
  const body = make("div", { class: "inner" });
  const select = make("select", { id: `${host.id}-head` }, ...found.heads.map(({ name }, at) => new Option(name, at)));
  const choice = make("div", {}, make("label", { for: select.id }, "Head"), select);
  const parts = found.heads.length > 1 ? [choice, body] : [body];
  const other = otherModelWords(found, answer);
  if (other) parts.unshift(make("p", { class: "note" }, other));
  if (row.flag) {
    const untrusted = `This record is flagged (${row.flag}): read its contributions with the same caution as its score.`;
    parts.unshift(make("p", { class: "note" }, untrusted));
  }
  host.replaceChildren(make("h3", {}, "What each residue of ", isolated(row.id), " adds"), ...parts, scan.element);
  const fill = () => {
    const at = Number(select.value || 0);
    const redraw = showHead(host, body, record, found.heads, at);
    scan.useHead(found.heads[at]);
    host.redraw = () => {
      redraw();
      scan.redraw();
    };
    host.redraw();
  };
  select.addEventListener("change", fill);
  fill();
}

/** Words, pictures and tables of one head; returns a function that fits the pictures to the page. */
function showHead(host, body, record, heads, at) {
  const head = heads[at];
  const chains = record.chains.filter(({ chain }) => head.chains.includes(chain));
  const valued = chains.map((chain) => ({
    ...chain,
    name: chains.length > 1 ? CHAINS[chain.chain] : "", // a single chain of a flagged record may not be the one that the head expects
    residues: chain.residues.map((residue) => ({ ...residue, adds: residue.contributions[at] })),
  }));
  const highest = Math.max(...valued.flatMap(({ residues }) => residues.map(({ adds }) => Math.abs(adds))), 1e-9);
  const figures = valued.map((chain, order) => figureOf(chain, `${host.id}-${order}`, highest));
  body.replaceChildren(
    make("p", {}, sumWords(record, head, at, valued)),
    make("p", {}, strongestWords(valued)),
    ...figures.map(({ figure }) => figure),
    make("p", { class: "note" }, NOT_A_MUTATION),
    make("details", {}, make("summary", {}, "The same in numbers"), ...valued.map((chain) => tables(chain, at))),
  );
  return () => figures.forEach(({ redraw }) => redraw());
}

const inUnit = (value, unit) => `${signed(value, DECIMALS)}${unit}`;

/** The baseline, the sum of the contributions, and their total. */
function sumWords(record, head, at, chains) {
  const [baseline, total] = [record.baseline[at], record.total[at]];
  const parts = chains.length > 1
    ? ` (${chains.map(({ name, regions }) => `${name.toLowerCase()} ${signed(sum(regions, at), DECIMALS)}`).join(", ")})` : "";
  const adds = signed(total - baseline, DECIMALS);
  if (head.kind !== "logistic") {
    const unit = ` ${head.unit}`;
    return `${head.name}: ${inUnit(total, unit)} = ${inUnit(baseline, unit)}, the baseline at the bundle's mean embedding, and ${adds}${unit} `
      + `from the residues${parts}.`;
  }
  const p = 1 / (1 + Math.exp(-total));
  return `${head.name}: p ${p.toFixed(DECIMALS)}, a logit of ${signed(total, DECIMALS)} = ${signed(baseline, DECIMALS)}, the `
    + `baseline at the bundle's mean embedding, and ${adds} from the residues${parts}. A contribution above 0 raises p, one below 0 lowers it.`;
}

const sum = (regions, at) => Object.values(regions).reduce((all, sums) => all + sums[at], 0);

/** The residues that add most, upwards and downwards. */
function strongestWords(chains) {
  const residues = chains.flatMap((chain) => chain.residues.map((residue) => ({ ...residue, of: chains.length > 1 ? `${chain.chain} ` : "" })));
  const named = ({ of, residue, position, region, adds }) =>
    `${of}${residue}${position}${region && ` (${region})`} ${signed(adds, DECIMALS)}`;
  const sorted = residues.sort((a, b) => b.adds - a.adds);
  const up = sorted.filter(({ adds }) => adds > 0).slice(0, STRONGEST).map(named);
  const down = sorted.filter(({ adds }) => adds < 0).slice(-STRONGEST).reverse().map(named);
  return `Most upwards, by position in the sequence: ${up.join(", ") || "none"}. Most downwards: ${down.join(", ") || "none"}.`;
}

/** A chain's picture; redraw() fits it to the width of the page. */
function figureOf(chain, id, highest) {
  const charged = chain.net_charge === null ? "No antibody domain was found"
    : `Net charge ${signed(chain.net_charge, 1)} at pH 7.4, pI ${chain.pI.toFixed(1)}`;
  const caption = make("figcaption", { id }, [chain.name, charged].filter(Boolean).join(": "));
  const legend = make("p", { class: "hint" }, "A bar that points up raises the sum, and one that points down lowers it. CDRs are shaded. Numbers below the residues are IMGT positions.");
  const plot = make("div", { class: "strip" });
  let width = 0;
  const redraw = () => {
    if (!plot.clientWidth || plot.clientWidth === width) return; // 0: it was taken off the page
    width = plot.clientWidth;
    plot.replaceChildren(chart(chain.residues, width, highest, id));
  };
  return { figure: make("figure", {}, caption, legend, plot), redraw };
}

/** A chain's sums by region, and its residues, as tables. */
function tables({ name, regions, residues }, at) {
  const sums = Object.entries(regions).map(([region, values]) => [region, signed(values[at], DECIMALS)]);
  const each = residues.map(({ position, imgt, region, residue, adds }) =>
    [position, residue, imgt || "-", region || "outside", signed(adds, 4)]);
  return make("div", { class: "columns" },
    dataTable(name ? `${name}, by region` : "By region", ["Region", "Sum"], sums),
    dataTable(name ? `${name}, by residue` : "By residue", ["Position", "Residue", "IMGT", "Region", "Adds"], each));
}
