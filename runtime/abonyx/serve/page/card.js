// What the page says about the model that answers: its facts and its card.

import { $, DECIMALS, make, plural, whole } from "./dom.js";

const MOST_CHARS = 100_000; // of a card, on the page
const CHAINS = { H: "heavy", L: "light" }; // as a manifest names them

/** How many training rows repeat the sequence of an earlier row; "" if none does. */
export function repeats({ repeated_sequences: rows }, before) {
  return rows ? `${before}${plural(rows, "row repeats", "rows repeat")} an earlier row's sequence` : "";
}

export function showFacts(model) {
  const { training, parity } = model;
  const validated = training?.candidates.find((candidate) => candidate.C === training.C);
  const off = Object.values(parity?.heads ?? {}).filter((head) => head.p).map((head) => head.p.max);
  const facts = {
    Model: [model.name, model.notice].filter(Boolean).join(": "),
    "Fitted on": training
      && plural(training.rows, "row") + (training.ridge ? "" : `, ${whole(training.positives)} of them non-specific`)
      + repeats(training, ", "),
    "How far to trust it": model.card && make("span", {}, ...inline(model.card.split("\n", 1)[0])),
    "Cross-validated": validated
      && `ROC AUC ${validated.roc_auc_mean.toFixed(DECIMALS)}, accuracy ${validated.accuracy_mean.toFixed(DECIMALS)}`
      + ` (${training.folds} random folds, ${plural(training.seeds, "time")})`,
    Thresholds: [`its own ${model.default_threshold}`,
      ...Object.entries(model.thresholds).map(([assay, value]) => `${assay} ${value}`)].join(", "),
    Chains: model.chains.map((chain) => CHAINS[chain] ?? chain).join(", "),
    "Longest sequence": plural(model.max_residues, "residue"),
    Licence: model.licence,
  };
  const engine = {
    Running: `variant ${model.variant} (${model.precision}) on ${model.provider}, abonyx ${model.abonyx}`,
    "Graph nodes": Object.entries(model.placement).map(([name, nodes]) => `${name} ${nodes}`).join(", "),
    "Against PyTorch": off.length
      && `p differs by at most ${Math.max(...off).toExponential(1)} on ${plural(parity.rows, "sequence")}`,
    "sha256 of its manifest": model.sha256,
  };
  showList($("facts"), facts);
  showList($("engine-facts"), engine);
  $("card").hidden = !model.model_card;
  $("card-text").replaceChildren(...markdown(model.model_card ?? ""));
  $("trust").hidden = !model.card;
  $("trust-text").replaceChildren(...markdown(model.card ?? ""));
}

/** Names and values in a list; those without a value are left out. */
function showList(list, facts) {
  const shown = Object.entries(facts).filter(([, value]) => value);
  list.replaceChildren(...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/**
 * Headings, paragraphs, lists, tables, bold, emphasis and code of a model card; the rest stays as it is written.
 *
 * A card may come from a stranger. No pattern here reads a character more than a few times, and the text that is shown is
 * limited.
 */
function markdown(text) {
  const blocks = blocksOf(text.slice(0, MOST_CHARS)).map((lines) => {
    const block = lines.join("\n").trim();
    const heading = lines[0].match(/^(#+) (.*)/);
    if (heading) return make(heading[1].length < 2 ? "h3" : "h4", {}, ...inline(heading[2]));
    if (lines.length > 1 && lines.every((line) => line.startsWith("|"))) return markdownTable(lines);
    if (!/^[-*] /.test(lines[0])) return make("p", {}, ...inline(lines.join(" ")));
    const items = block.trim().slice(2).split(/\n[-*] /);
    return make("ul", {}, ...items.map((item) => make("li", {}, ...inline(item.replaceAll(/\s+/g, " ")))));
  });
  const rest = text.length - MOST_CHARS;
  return rest > 0 ? [...blocks, make("p", {}, `${plural(rest, "more character")}: see the bundle's README.md.`)] : blocks;
}

/** Lines that belong together: a heading is alone, and a blank line ends the others. */
function blocksOf(text) {
  const blocks = [[]];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith("#")) blocks.push([line], []);
    else if (line.trim()) blocks.at(-1).push(line);
    else blocks.push([]);
  }
  return blocks.filter((lines) => lines.length);
}

function markdownTable(lines) {
  const cells = (line) => line.replaceAll(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const row = (tag, line) => make("tr", {}, ...cells(line).map((cell) => make(tag, {}, ...inline(cell))));
  const rows = lines.slice(2).map((line) => row("td", line));
  const table = make("table", {}, make("thead", {}, row("th", lines[0])), make("tbody", {}, ...rows));
  // It can be wider than a phone: an area that scrolls needs the focus and a name.
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the card" }, table);
}

// Each part ends at the next mark of its own kind. An address may hold `[` and `(`, so its length is limited.
// A mark after a backslash, and the entities of < > &, stand for that character.
const INLINE = /\\([\\`*_[\]|~#])|&(lt|gt|amp);|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|`([^`]+)`|\[([^[\]]+)\]\(([^)]{1,1000})\)/g;

function inline(text) {
  const pieces = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, mark, entity, strong, em, code, label, address] = found;
    pieces.push(text.slice(at, found.index));
    at = found.index + whole.length;
    if (mark) pieces.push(mark);
    else if (entity) pieces.push({ lt: "<", gt: ">", amp: "&" }[entity]);
    else if (strong) pieces.push(make("strong", {}, strong));
    else if (em) pieces.push(make("em", {}, em));
    else if (code) pieces.push(make("code", {}, code));
    else pieces.push(`${label} (${address})`); // its address as text: no link leads away from this page
  }
  return [...pieces, text.slice(at)].filter(Boolean);
}
