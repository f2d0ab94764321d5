// Elements, text and numbers, for every other module. Text is inserted as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
export const DECIMALS = 3; // of a score on the page; the CSV has them all

export const $ = (id) => document.getElementById(id);
export const whole = new Intl.NumberFormat("en").format;
export const percent = (share) => `${(100 * share).toFixed(0)} %`;
export const signed = (value, decimals) => `${value > 0 ? "+" : ""}${value.toFixed(decimals)}`;
export const plural = (n, one, more = `${one}s`) => `${whole(n)} ${n === 1 ? one : more}`;

const UNITS = ["KiB", "MiB", "GiB"];

/** A size in the largest unit that it fills, with three digits: "16 MiB", "1.5 KiB", "123 bytes". */
export function size(bytes) {
  if (bytes < 1024) return plural(bytes, "byte");
  const power = Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length);
  return `${Number((bytes / 1024 ** power).toPrecision(3)).toLocaleString("en")} ${UNITS[power - 1]}`;
}

/** An element with attributes and children; a string becomes text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const isolated = (text) => make("bdi", {}, text); // an id may change the direction of the text after it

export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** A table that scrolls sideways if it is too wide; the first cell of a row is its name. */
export function dataTable(caption, titles, rows) {
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const body = rows.map(([name, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, String(name)), ...cells.map((cell) => make("td", {}, String(cell)))));
  const table = make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
}

export const say = (text) => { $("status").textContent = text; };
