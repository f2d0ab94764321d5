// The picture of a chain's contributions: a bar for each residue, in as many lines as the width of the page needs.

import { DECIMALS, draw, signed } from "./dom.js";

const LEFT = 48, RIGHT = 4; // pixels on both sides of the residues; the scale is on the left
const NARROWEST = 12; // of a residue
const WIDEST = 18;
const NAME = 15, BAR = 36, LETTER = 16, NUMBER = 18; // heights: region's name, bars to each side, residue, IMGT number
const LINE = NAME + 2 * BAR + LETTER + NUMBER + 8;
const FEWEST_NAMED = 3; // residues of a shaded piece with room for its name

/** residues: {residue, position, imgt, region, adds}; highest: the contribution with a bar of full height. */
export function chart(residues, width, highest, labelledBy) {
  const most = Math.max(1, Math.floor((width - LEFT - RIGHT) / NARROWEST));
  const lines = Math.ceil(residues.length / most);
  const perLine = Math.ceil(residues.length / lines);
  const cell = Math.min(WIDEST, (width - LEFT - RIGHT) / perLine);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${lines * LINE}`, height: lines * LINE, role: "img", "aria-labelledby": labelledBy });
  for (let line = 0; line < lines; line += 1) {
    const part = residues.slice(line * perLine, (line + 1) * perLine);
    drawLine(svg, part, { top: line * LINE, cell, highest });
  }
  return svg;
}

function drawLine(svg, residues, { top, cell, highest }) {
  const x = (at) => LEFT + at * cell;
  const axis = top + NAME + BAR;
  for (const { from, to, region } of pieces(residues)) {
    const box = { x: x(from), y: top, width: (to - from) * cell, height: NAME + 2 * BAR + LETTER };
    svg.append(draw("rect", { class: "cdr", ...box }));
    if (to - from >= FEWEST_NAMED) svg.append(draw("text", { x: x(from) + 3, y: top + 12 }, region));
  }
  for (const [value, y] of [[highest, axis - BAR + 8], [0, axis + 4], [-highest, axis + BAR]]) {
    svg.append(draw("text", { x: LEFT - 5, y, "text-anchor": "end" }, value ? signed(value, 2) : "0"));
  }
  svg.append(draw("path", { class: "axis", d: `M${LEFT} ${axis}H${x(residues.length)}` }));
  residues.forEach((residue, at) => svg.append(column(residue, x(at), { axis, cell, highest })));
}

/** One residue: its bar, its letter, and every tenth IMGT number. */
function column({ residue, position, imgt, region, adds }, left, { axis, cell, highest }) {
  const height = (Math.abs(adds) / highest) * BAR;
  const group = draw("g");
  group.append(draw("title", {}, `${residue}${position}, ${imgt ? `IMGT ${imgt}, ${region}` : "outside the domain"}: ${signed(adds, DECIMALS)}`));
  const bar = { x: left + cell * 0.15, y: adds > 0 ? axis - height : axis, width: cell * 0.7, height };
  group.append(draw("rect", { class: adds > 0 ? "raises" : "lowers", ...bar }));
  const middle = { x: left + cell / 2, "text-anchor": "middle" };
  group.append(draw("text", { class: "residue", y: axis + BAR + LETTER - 3, ...middle }, residue));
  if (/^\d*0$/.test(imgt)) group.append(draw("text", { y: axis + BAR + LETTER + 12, ...middle }, imgt));
  return group;
}

/** Where residues of one CDR follow each other: {from, to, region}. */
function pieces(residues) {
  const found = [];
  residues.forEach(({ region }, at) => {
    if (!region.startsWith("CDR")) return;
    const last = found.at(-1);
    if (last?.to === at && last.region === region) last.to = at + 1;
    else found.push({ from: at, to: at + 1, region });
  });
  return found;
}
