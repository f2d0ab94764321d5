// The histogram of rows with a call. A bar is a share of its own group, so that groups of any size can be compared.

import { repeats } from "./card.js";
import { $, DECIMALS, draw, make, percent, plural, whole } from "./dom.js";

const BINS = 20; // if the model has no bins of its own

const called = (row) => row.nonspecific !== null;
const calledScores = (answer) => answer.results.filter(called).map((row) => row.p_nonspecific);

/** How many values each bin has. A bin includes its lower edge; the last one also its upper edge, as in the model's counts. */
function counted(edges, values) {
  const counts = new Array(edges.length - 1).fill(0);
  for (const value of values) {
    const above = edges.findIndex((edge) => edge > value);
    counts[above < 0 ? counts.length - 1 : above - 1] += 1;
  }
  return counts;
}

function groupsOf(edges, answer, scores) {
  const own = { kind: "own", name: "this set", counts: counted(edges, calledScores(answer)) };
  const known = scores
    ? [
      { kind: "specific", name: "training: specific", counts: scores.specific },
      { kind: "nonspecific", name: "training: non-specific", counts: scores.nonspecific },
    ]
    : [];
  return [...known, own].map((group) => ({ ...group, total: group.counts.reduce((sum, n) => sum + n, 0) }));
}

/** Draw the answer, and the training set of the model if that model scored it. */
export function drawHistogram(answer, model) {
  $("histogram").hidden = !calledScores(answer).length;
  if ($("histogram").hidden) return;
  const sameModel = model?.sha256 === answer.model.sha256;
  const scores = sameModel ? model.training?.scores : null;
  const edges = scores?.bin_edges ?? Array.from({ length: BINS + 1 }, (_, at) => at / BINS);
  const groups = groupsOf(edges, answer, scores);
  $("plot").replaceChildren(plot(edges, groups, answer.threshold));
  $("legend").replaceChildren(...groups.map(({ kind, name, total }) => {
    const swatch = draw("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" });
    swatch.append(draw("rect", { class: kind, x: 1, y: 1, width: 20, height: 12 }));
    return make("li", {}, swatch, `${name} (${whole(total)})`);
  }));
  $("histogram-words").textContent = histogramWords(edges, groups, answer, sameModel ? model : null);
  const head = ["p from", "to", ...groups.map((group) => group.name)];
  const row = (tag, attributes, cells) =>
    make("tr", {}, ...cells.map((cell) => make(tag, { class: "number", ...attributes }, String(cell))));
  const cells = (edge, at) => [edges[at], edge, ...groups.map((group) => whole(group.counts[at]))];
  const body = make("tbody", {}, ...edges.slice(1).map((edge, at) => row("td", {}, cells(edge, at))));
  const caption = make("caption", { class: "hidden-text" }, "Rows of each group by p non-specific");
  $("histogram-table").replaceChildren(caption, make("thead", {}, row("th", { scope: "col" }, head)), body);
}

/** The value between the lower half of the rows and the upper one. */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
}

/** The edges between which the median lies; only the counts of the bins are known. */
function medianBins(edges, { counts, total }) {
  let seen = 0;
  const upTo = counts.map((n) => (seen += n));
  const lower = upTo.findIndex((n) => n >= total / 2), upper = upTo.findIndex((n) => n > total / 2);
  return `${edges[lower]} and ${edges[upper + 1]}`;
}

/** What the picture shows; model: null if another model scored the answer. */
function histogramWords(edges, groups, answer, model) {
  const { results, threshold } = answer;
  const calls = results.filter(called);
  const above = calls.filter((row) => row.nonspecific).length;
  const without = results.length - calls.length;
  const rest = without ? ` ${plural(without, "more sequence has", "more sequences have")} no call and no bar.` : "";
  const text = `${plural(above, "sequence")} of ${whole(calls.length)} with a call (${percent(above / calls.length)}) `
    + `above the threshold ${threshold}; their median is ${median(calledScores(answer)).toFixed(DECIMALS)}.${rest}`;
  if (groups.length > 1) {
    const repeated = repeats(model.training, " ");
    return `${text} The training set's medians: specific between ${medianBins(edges, groups[0])}, non-specific between `
      + `${medianBins(edges, groups[1])}; each training row was scored by a model fitted without that row `
      + `(cross-validation).${repeated && `${repeated}: a model may have seen it in the other.`} `
      + "Heights are shares of each group.";
  }
  const missing = model ? "'s manifest has no scores of its training set" : "'s training scores are not at hand";
  return `${text} The model${missing}: only this set is shown.`;
}

/** Axes: p from left to right, shares of a group from the bottom up; x and y give the pixels of a value. */
function axesOf(width, height, highest) {
  const left = 40, right = 12, top = 22, bottom = 40;
  const step = [0.02, 0.05, 0.1, 0.2].find((each) => highest / each <= 5) ?? 0.25;
  const lines = Math.ceil(highest / step);
  const x = (p) => left + p * (width - left - right);
  const y = (share) => height - bottom - (share / (lines * step)) * (height - top - bottom);
  const parts = [];
  for (let at = 0; at <= lines; at += 1) {
    parts.push(draw("path", { class: at ? "grid" : "axis", d: `M${left} ${y(at * step)}H${width - right}` }));
    parts.push(draw("text", { x: left - 6, y: y(at * step) + 4, "text-anchor": "end" }, percent(at * step)));
  }
  for (const p of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(draw("path", { class: "axis", d: `M${x(p)} ${y(0)}v4` }));
    parts.push(draw("text", { x: x(p), y: y(0) + 17, "text-anchor": p === 1 ? "end" : "middle" }, String(p)));
  }
  parts.push(draw("text", { x: x(0.5), y: height - 6, "text-anchor": "middle" }, "p non-specific"));
  return { x, y, top, parts };
}

function plot(edges, groups, threshold) {
  const width = Math.max($("plot").clientWidth, 240), height = 250;
  const highest = Math.max(...groups.flatMap(({ counts, total }) => counts.map((n) => n / total)));
  const { x, y, top, parts } = axesOf(width, height, highest);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-labelledby", "histogram-title");
  svg.setAttribute("aria-describedby", "histogram-words");
  svg.append(...parts);
  for (const { kind, counts, total } of groups) {
    if (kind !== "own") {
      const steps = counts.map((n, at) => `V${y(n / total)}H${x(edges[at + 1])}`);
      svg.append(draw("path", { class: kind, d: `M${x(edges[0])} ${y(0)}${steps.join("")}V${y(0)}Z` }));
      continue;
    }
    counts.forEach((n, at) => {
      const bin = x(edges[at + 1]) - x(edges[at]), share = y(n / total);
      const box = { x: x(edges[at]) + bin / 4, y: share, width: bin / 2, height: y(0) - share };
      svg.append(draw("rect", { class: kind, ...box }));
    });
  }
  const at = x(threshold);
  const anchor = threshold > 0.7 ? "end" : threshold < 0.3 ? "start" : "middle";
  svg.append(draw("path", { class: "threshold", d: `M${at} ${top - 6}V${y(0)}` }));
  const mark = { class: "threshold", x: at, y: 11, "text-anchor": anchor };
  svg.append(draw("text", mark, `threshold ${threshold}`));
  return svg;
}
