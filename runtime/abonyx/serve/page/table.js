// A table that is sorted by its column heads and shows one page of rows at a time.

import { make, whole } from "./dom.js";

const ROWS_A_PAGE = 50;
// Widths of columns by kind, in rem; flag, sequence and reason share the rest.
const WIDTHS = { number: 4, id: 8.5, percentile: 8.5, call: 7.5, score: 8.5, flag: 6.5, charge: 5, why: 5.5, value: 7.5, sequence: 6, reason: 7 };

/** An area that scrolls a table sideways if the page is narrower; only then the keyboard reaches it. */
function scroller(table, caption, hint) {
  const element = make("div", { class: "scroll" }, table);
  new ResizeObserver(() => {
    const scrolls = element.scrollWidth > element.clientWidth;
    hint.hidden = !scrolls;
    for (const [name, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": caption })) {
      if (scrolls) element.setAttribute(name, value);
      else element.removeAttribute(name);
    }
  }).observe(element);
  return element;
}

/** A table with only one page of its rows in the document. */
export class PagedTable {
  /**
   * columns: {kind, title, cell(row)}; value(row) and descending if the table can be sorted by it; cellClass(row) is added
   * to the kind; named: on a narrow page, where a row is not a line, the title comes before the cell.
   * sorted: the column by which the table is sorted at first.
   */
  constructor(host, caption, columns, { rowClass = () => "", sorted = 0 } = {}) {
    const descending = Boolean(columns[sorted].descending);
    Object.assign(this, { columns, rowClass, rows: [], total: 0, page: 0, sorted, descending });
    this.heads = columns.map((column, at) => this.head(column, at));
    this.body = make("tbody", { role: "rowgroup" });
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.heads));
    this.table = make("table", { role: "table" }, make("caption", { class: "hidden-text" }, caption), head, this.body);
    this.shown = make("span", { role: "status" });
    this.previous = this.button("Previous", -1);
    this.next = this.button("Next", 1);
    host.className = "paged";
    const narrowest = columns.reduce((sum, { kind }) => sum + WIDTHS[kind], 0);
    this.table.style.setProperty("--narrowest", `${narrowest}rem`);
    this.heads.forEach((cell, at) => cell.style.setProperty("--width", `${WIDTHS[columns[at].kind]}rem`));
    const wide = make("span", { class: "hint", hidden: "" }, "The table is wider than this page: scroll it sideways.");
    host.append(make("div", { class: "pager" }, this.shown, this.previous, this.next, wide), scroller(this.table, caption, wide));
  }

  head({ kind, title, value }, at) {
    const cell = make("th", { role: "columnheader", scope: "col", class: value ? `${kind} sortable` : kind });
    if (!value) {
      cell.append(title);
      return cell;
    }
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => this.sort(at));
    cell.append(button);
    return cell;
  }

  button(title, step) {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      this.page += step;
      this.render();
      const other = step > 0 ? this.previous : this.next;
      if (button.disabled) other.focus(); // a disabled button would lose the focus to the page
    });
    return button;
  }

  show(rows, total = rows.length) {
    this.rows = [...rows];
    this.total = total;
    this.order();
  }

  sort(at) {
    this.descending = at === this.sorted ? !this.descending : Boolean(this.columns[at].descending);
    this.sorted = at;
    this.order();
  }

  order() {
    const { value } = this.columns[this.sorted];
    const sign = this.descending ? -1 : 1;
    const collator = new Intl.Collator("en", { numeric: true });
    const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);
    if (value) this.rows.sort((a, b) => sign * compare(value(a), value(b)) || a.number - b.number);
    this.page = 0;
    this.render();
  }

  render() {
    const start = this.page * ROWS_A_PAGE;
    const rows = this.rows.slice(start, start + ROWS_A_PAGE);
    this.heads.forEach((cell, at) => {
      if (at !== this.sorted || !this.columns[at].value) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
    this.body.replaceChildren(...rows.map((row, at) => this.line(row, start + at)));
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    const filtered = this.rows.length < this.total ? ` that match, of ${whole(this.total)}` : "";
    this.shown.textContent = rows.length
      ? `Rows ${whole(start + 1)} to ${whole(start + rows.length)} of ${whole(this.rows.length)}${filtered}`
      : `No row of ${whole(this.total)} matches`;
    this.previous.disabled = this.page === 0;
    this.next.disabled = start + rows.length >= this.rows.length;
    this.previous.hidden = this.next.hidden = this.rows.length <= ROWS_A_PAGE;
  }

  line(row, at) {
    const cells = this.columns.map(({ kind, title, cell, cellClass = () => "", named }) =>
      make("td", { role: "cell", class: `${kind} ${cellClass(row)}`.trim(), ...(named ? { "data-title": title } : {}) }, cell(row)));
    return make("tr", { role: "row", "aria-rowindex": at + 2, class: this.rowClass(row) }, ...cells);
  }
}
