// The picture of a scan: new residues by positions, in as many pieces as the width of the page needs. Its colours are
// transparent, so that they suit a light and a dark page.

import { draw, make, signed } from "./dom.js";

export const RESIDUES = [..."KRHDENQSTGPCAVILMFWY"]; // by kind: basic, acidic, polar, special, hydrophobic
const ENDS = [1, 1.5, 2, 3, 5, 10, 20, 50]; // the first that no value exceeds; most maps have 1, so that they can be compared
const LEFT = 20, RIGHT = 2; // pixels on both sides of the cells; the new residues are on the left
const NARROWEST = 14, WIDEST = 22, HIGH = 14; // of a cell
const REGION = 18, LETTER = 16, NUMBER = 32; // heights: region's name, parent's residue, IMGT number
const PIECE = REGION + RESIDUES.length * HIGH + LETTER + NUMBER;
const FEWEST_NAMED = 3; // positions of a region with room for its name

/** Where the colours end on both sides; sd: for a head that gives values. */
export function endOf(values, sd) {
  const most = Math.max(0, ...values.map((value) => Math.abs(value ?? 0)));
  return (ENDS.find((end) => most <= end * (sd ?? 1)) ?? ENDS.at(-1)) * (sd ?? 1);
}

/** The colour of a cell: orange above 0, blue below, none at 0. */
const coloured = (value, end) => ({ class: value > 0 ? "raises" : "lowers", "fill-opacity": Math.min(1, Math.abs(value) / end) });

/** places: {position, imgt, region, residue}; cellOf(place, residue): {value, text}, or nothing if it was not scanned. */
export function chart(places, cellOf, { end, width, labelledBy }) {
  const most = Math.max(1, Math.floor((width - LEFT - RIGHT) / NARROWEST));
  const pieces = Math.ceil(places.length / most);
  const perPiece = Math.ceil(places.length / pieces);
  const wide = Math.min(WIDEST, (width - LEFT - RIGHT) / perPiece);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${pieces * PIECE}`, height: pieces * PIECE, role: "img", "aria-labelledby": labelledBy });
  for (let piece = 0; piece < pieces; piece += 1) {
    const part = places.slice(piece * perPiece, (piece + 1) * perPiece);
    drawPiece(svg, part, cellOf, { top: piece * PIECE, wide, end });
  }
  return svg;
}

function drawPiece(svg, places, cellOf, { top, wide, end }) {
  const cells = top + REGION, bottom = cells + RESIDUES.length * HIGH;
  const x = (at) => LEFT + at * wide;
  drawRegions(svg, places, { top, bottom, x });
  RESIDUES.forEach((residue, row) => {
    const y = cells + row * HIGH;
    svg.append(draw("text", { class: "residue", x: LEFT - 6, y: y + HIGH - 3, "text-anchor": "end" }, residue));
    places.forEach((place, at) => svg.append(cell(cellOf(place, residue), place.residue === residue, { x: x(at), y, width: wide, end })));
  });
  places.forEach(({ position, imgt, residue }, at) => {
    const middle = x(at) + wide / 2;
    svg.append(draw("text", { class: "residue", x: middle, y: bottom + LETTER - 4, "text-anchor": "middle" }, residue));
    const turned = `translate(${middle + 4} ${bottom + LETTER}) rotate(-90)`;
    svg.append(draw("text", { class: "turned", transform: turned, "text-anchor": "end" }, imgt || String(position)));
  });
}

/** One cell: a dot for the parent's own residue, a stroke if it was not scanned. */
function cell(found, own, { x, y, width, end }) {
  const group = draw("g");
  const box = { x: x + 0.5, y: y + 0.5, width: width - 1, height: HIGH - 1 };
  if (own) group.append(draw("circle", { class: "dot-own", cx: x + width / 2, cy: y + HIGH / 2, r: 3 }));
  else if (found) group.append(draw("rect", { ...coloured(found.value, end), ...box }));
  else group.append(draw("path", { class: "axis", d: `M${x + width / 2 - 3} ${y + HIGH / 2 + 3}l6 -6` }));
  if (found) group.append(draw("title", {}, found.text));
  return group;
}

/** A name above the positions of each region, and a frame around their cells. */
function drawRegions(svg, places, { top, bottom, x }) {
  let from = 0;
  places.forEach(({ region }, at) => {
    if (places[at + 1]?.region === region) return;
    const width = x(at + 1) - x(from);
    if (region.startsWith("CDR")) svg.append(draw("rect", { class: "cdr", x: x(from), y: top, width, height: REGION - 3 }));
    if (at + 1 - from >= FEWEST_NAMED) svg.append(draw("text", { x: x(from) + 3, y: top + REGION - 6 }, region));
    svg.append(draw("rect", { class: "frame", x: x(from), y: top + REGION, width, height: bottom - top - REGION }));
    from = at + 1;
  });
}

/** The meaning of the colours, the dot and the stroke. */
export function legend(end, unit) {
  const swatch = (...parts) => {
    const svg = draw("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" });
    svg.append(...parts);
    return svg;
  };
  const box = { x: 1, y: 1, width: 20, height: 12 };
  const steps = [[-end, ", lower"], [-end / 2, ""], [0, ", no change"], [end / 2, ""], [end, `, higher (${unit})`]];
  const items = steps.map(([value, word]) => make("li", {},
    swatch(draw("rect", { ...coloured(value, end), ...box }), draw("rect", { class: "frame", ...box })),
    `${value ? signed(value, end < 10 ? 2 : 0) : "0"}${word}`));
  return make("ul", { class: "legend" }, ...items,
    make("li", {}, swatch(draw("circle", { class: "dot-own", cx: 11, cy: 7, r: 3 })), "the parent's residue"),
    make("li", {}, swatch(draw("path", { class: "axis", d: "M8 10l6 -6" })), "not scanned"));
}
