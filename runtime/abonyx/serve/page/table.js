// A table that is sorted by its heads, a page of rows at a time.

import { make, whole } from "./dom.js";

const ROWS_A_PAGE = 50;

/** A table of which one page of rows is in the document, however many there are. */
export class PagedTable {
  /**
   * columns: {kind, title, cell(row)}, and value(row), descending if it can be sorted by.
   * sorted: the column that it is sorted by at first.
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
    host.append(make("div", { class: "pager" }, this.shown, this.previous, this.next), this.table);
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
    const cells = this.columns.map(({ kind, cell }) => make("td", { role: "cell", class: kind }, cell(row)));
    return make("tr", { role: "row", "aria-rowindex": at + 2, class: this.rowClass(row) }, ...cells);
  }
}
