// The page of `abonyx serve`. One file, because a page without a build has one script; in the order data passes:
// model -> input -> request -> answer -> histogram, tables, files. Text is inserted as text, never as markup.

const ROWS_A_PAGE = 50;
const RETRY_S = 3;
const BINS = 20; // where the model brings no bins of its own
const DECIMALS = 3; // of a score on the page; the CSV has them all
// A line without a header counts as a sequence from here on: a one-column table's header is shorter.
const BARE_RESIDUES = 20;
const CHAINS = { H: "heavy", L: "light" }; // as a manifest names them
const NO_CALL = "No call: the model was not trained on such a record, so its score means nothing.";
const SVG = "http://www.w3.org/2000/svg";
const EXAMPLE = `>trastuzumab
EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS
>adalimumab
EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS
>bevacizumab
EVQLVESGGGLVQPGGSLRLSCAASGYTFTNYGMNWVRQAPGKGLEWVGWINTYTGEPTYAADFKRRFTFSLDTSKSTAYLQMNSLRAEDTAVYYCAKYPHYYGSSHWYFDVWGQGTLVTVSS
`;

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en").format;
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const plural = (n, one, more = `${one}s`) => `${whole(n)} ${n === 1 ? one : more}`;

let model = null; // the answer of /v1/model; null = not ready
let token = "";
let file = null;
let running = null; // the AbortController of the request in flight
let answer = null; // of the last request that ended well
let retry = 0;

/** An element with attributes and children; a string becomes text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const say = (text) => { $("status").textContent = text; };

// --- the server

/** An answer that is no result: its problem+json (title, detail, fix), and how many seconds it asks to wait. */
class Refused extends Error {
  constructor(problem, status = 0, wait = 0) {
    super(problem.title);
    Object.assign(this, { problem, status, wait });
  }
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const response = await reached(fetch(path, { ...options, headers, cache: "no-store" }));
  if (response.ok) return response;
  const text = await reached(response.text());
  const problem = json(text);
  const title = `The server answered ${response.status} ${response.statusText}`; // a proxy did, say
  const known = problem?.title ? problem : { title, detail: text.slice(0, 500) };
  throw new Refused(known, response.status, Number(response.headers.get("Retry-After")) || 0);
}

/** What a promise of the network gives; a failure that is not the user's own cancelling is a Refused. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const fix = "Check that the server still runs. A file that changed after it was chosen has to be chosen again.";
    throw new Refused({ title: "The server does not answer", detail: "The connection failed or was cut off.", fix });
  }
}

/** The value of JSON text; null where it is none. */
function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The object of JSON text that answered well; something between page and server may have answered instead. */
function parsed(text) {
  const value = json(text);
  if (value instanceof Object) return value;
  const fix = "Check what stands between this page and the server.";
  throw new Refused({ title: "The answer is not that of abonyx", detail: text.slice(0, 500), fix });
}

async function loadModel() {
  clearTimeout(retry);
  try {
    const waited = !$("waiting").hidden;
    model = parsed(await reached((await ask("v1/model")).text()));
    $("waiting").hidden = true;
    if (waited) say("The model is ready.");
    showModel();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    model = null;
    if (error.status === 401) askToken(error.problem);
    else showWaiting(error.problem, error.wait || RETRY_S);
  }
  $("model-state").className = `dot ${model ? "ready" : "not-ready"}`;
  $("score").disabled = !model || Boolean(running);
}

function showWaiting({ title, detail, fix }, wait) {
  $("model-name").textContent = "Model not ready";
  const lines = ["The model is not ready, so nothing can be scored yet.", detail || title, fix];
  const text = [...lines.filter(Boolean), `Asked again every ${wait} s.`].join("\n");
  // Only what changed is put in: a screen reader would read the same words every few seconds.
  if ($("waiting").textContent !== text || $("waiting").hidden) $("waiting").textContent = text;
  $("waiting").hidden = false;
  retry = setTimeout(loadModel, 1000 * wait);
}

function askToken({ detail, fix }) {
  $("model-name").textContent = "A token is needed";
  $("waiting").hidden = true;
  $("token-words").textContent = [detail, fix].filter(Boolean).join("\n");
  $("token-form").hidden = false;
  $("token").focus();
}

function showModel() {
  $("token-form").hidden = true;
  $("model-name").textContent = `${model.name}: ready`;
  const chosen = $("assay").value;
  const own = new Option("my own value", "own");
  const assays = Object.entries(model.thresholds).map(([assay, value]) => new Option(`${assay} (${value})`, assay));
  $("assay").replaceChildren(new Option(`the model's own (${model.default_threshold})`, ""), ...assays, own);
  if ([...$("assay").options].some((option) => option.value === chosen)) $("assay").value = chosen;
  chooseThreshold();
  const { max_body_bytes, max_sequences, max_residues_per_request } = model.limits;
  $("limits").textContent = `At once: up to ${plural(max_sequences, "sequence")}, `
    + `${whole(max_residues_per_request)} residues and ${whole(max_body_bytes)} bytes; `
    + `a sequence has at most ${whole(model.max_residues)} residues.`;
  showFacts();
}

/** Of training rows, how many have an earlier row's sequence; nothing where none has. */
function repeats({ repeated_sequences: rows }, before) {
  return rows ? `${before}${plural(rows, "row repeats", "rows repeat")} an earlier row's sequence` : "";
}

function showFacts() {
  const { training, parity } = model;
  const validated = training?.candidates.find((candidate) => candidate.C === training.C);
  const facts = {
    Model: [model.name, model.notice].filter(Boolean).join(": "),
    "Fitted on": training
      && `${plural(training.rows, "row")}, ${whole(training.positives)} of them non-specific${repeats(training, ", ")}`,
    "Cross-validated": validated
      && `ROC AUC ${validated.roc_auc_mean.toFixed(DECIMALS)}, accuracy ${validated.accuracy_mean.toFixed(DECIMALS)}`
      + ` (${training.folds} folds, ${plural(training.seeds, "time")})`,
    Thresholds: [`its own ${model.default_threshold}`,
      ...Object.entries(model.thresholds).map(([assay, value]) => `${assay} ${value}`)].join(", "),
    Chains: model.chains.map((chain) => CHAINS[chain] ?? chain).join(", "),
    "Longest sequence": plural(model.max_residues, "residue"),
    Licence: model.licence,
    Running: `variant ${model.variant} (${model.precision}) on ${model.provider}, abonyx ${model.abonyx}`,
    "Graph nodes": Object.entries(model.placement).map(([name, nodes]) => `${name} ${nodes}`).join(", "),
    "Against PyTorch": parity
      && `p differs by at most ${parity.p.max.toExponential(1)} on ${plural(parity.rows, "sequence")}`,
    "sha256 of its manifest": model.sha256,
  };
  const shown = Object.entries(facts).filter(([, value]) => value);
  $("facts").replaceChildren(...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  $("card").hidden = !model.model_card;
  $("card-text").replaceChildren(...markdown(model.model_card ?? ""));
}

/** Headings, paragraphs, lists, tables, bold, emphasis and code of a model card; the rest stays as it is written. */
function markdown(text) {
  const blocks = text.replaceAll("\r\n", "\n").split(/\n{2,}|(?<=^#.*)\n|\n(?=#)/m).filter((block) => block.trim());
  return blocks.map((block) => {
    const lines = block.trim().split("\n");
    const heading = lines[0].match(/^(#+) (.*)/);
    if (heading) return make(heading[1].length < 2 ? "h3" : "h4", {}, ...inline(heading[2]));
    if (lines.length > 1 && lines.every((line) => line.startsWith("|"))) return markdownTable(lines);
    if (!/^[-*] /.test(lines[0])) return make("p", {}, ...inline(lines.join(" ")));
    const items = block.trim().slice(2).split(/\n[-*] /);
    return make("ul", {}, ...items.map((item) => make("li", {}, ...inline(item.replaceAll(/\s+/g, " ")))));
  });
}

function markdownTable(lines) {
  const cells = (line) => line.replaceAll(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (tag, line) => make("tr", {}, ...cells(line).map((cell) => make(tag, {}, ...inline(cell))));
  const rows = lines.slice(2).map((line) => row("td", line));
  const table = make("table", {}, make("thead", {}, row("th", lines[0])), make("tbody", {}, ...rows));
  // Wider than a phone: what scrolls has to take the focus, and a name.
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the card" }, table);
}

function inline(text) {
  const pieces = text.split(/(\*\*[^*]+\*\*|\*[^*\s][^*]*\*|`[^`]+`|\[[^\]]+\]\([^)]+\))/);
  return pieces.filter(Boolean).map((piece) => {
    if (piece.startsWith("**")) return make("strong", {}, piece.slice(2, -2));
    if (/^\*[^*\s][^*]*\*$/.test(piece)) return make("em", {}, piece.slice(1, -1));
    if (/^`.+`$/.test(piece)) return make("code", {}, piece.slice(1, -1));
    const link = piece.match(/^\[(.+)\]\((.+)\)$/); // its address as text: no link leads away from this page
    return link ? `${link[1]} (${link[2]})` : piece;
  });
}

// --- the input

function chooseFile(chosen) {
  file = chosen;
  $("file").value = "";
  $("chosen").hidden = !file;
  for (const id of ["paste", "choose", "example", "drop-hint"]) $(id).hidden = Boolean(file);
  if (file) $("chosen-name").textContent = `${file.name}, ${plural(file.size, "byte")}`;
  say(file ? `Chosen: ${file.name}` : "The file was removed.");
  (file ? $("remove") : $("choose")).focus();
}

function chooseThreshold() {
  const own = $("assay").value === "own";
  $("own").hidden = !own;
  $("threshold").disabled = !own;
}

/** The lines {sequence, line} of a text of one sequence a line; null for FASTA, tables, or where columns are named. */
function bareSequences(text) {
  const lines = text.split(/\r\n|\r|\n/).map((line, at) => ({ sequence: line.trim(), line: at + 1 }));
  const filled = lines.filter(({ sequence }) => sequence);
  const bare = ({ sequence }) => sequence.length >= BARE_RESIDUES && /^[A-Za-z*-]+$/.test(sequence);
  const named = $("id-column").value || $("sequence-column").value;
  return filled.length && !named && filled.every(bare) ? filled : null;
}

/** Of the request: path, type, body, and the bare lines, which go as JSON; everything else goes as the bytes it is. */
function requestOf() {
  const options = { on_invalid: $("skip").checked ? "skip" : "fail" };
  if ($("trim").checked) options.trim = "domain";
  if ($("assay").value === "own") options.threshold = Number($("threshold").value);
  else if ($("assay").value) options.assay = $("assay").value;
  const lines = file ? null : bareSequences($("text").value);
  if (lines) {
    const sequences = lines.map(({ sequence }, at) => ({ id: String(at + 1), sequence }));
    return ["v1/score", "application/json", new Blob([JSON.stringify({ sequences, ...options })]), lines];
  }
  for (const name of ["id-column", "sequence-column"]) {
    if ($(name).value) options[name.replace("-", "_")] = $(name).value;
  }
  const body = file ?? new Blob([$("text").value]);
  return [`v1/score?${new URLSearchParams(options)}`, "application/octet-stream", body, null];
}

/** What keeps the input from being sent, as a problem; null = nothing. */
function unusable(body) {
  if (!file && !$("text").value.trim()) {
    return { title: "There is nothing to score", fix: "Paste sequences, choose a file, or use the example." };
  }
  if (body.size <= model.limits.max_body_bytes) return null;
  const detail = `It has ${whole(body.size)} bytes; this server takes ${whole(model.limits.max_body_bytes)} at once.`;
  return { title: "The input is too large", detail, fix: "Give it in parts, or use the command line: abonyx score." };
}

// --- one request

async function score(event) {
  event.preventDefault();
  if (!model || running) return;
  $("problem").hidden = true;
  const [path, type, body, lines] = requestOf();
  const reason = unusable(body);
  if (reason) {
    showProblem(reason);
    return;
  }
  running = new AbortController();
  showRunning(true);
  say("Scoring.");
  try {
    const headers = { "Content-Type": type, Accept: "application/x-ndjson" };
    const response = await ask(path, { method: "POST", headers, body, signal: running.signal });
    const found = await lastLine(response);
    // Of JSON the server knows the number of the item only.
    if (lines) for (const row of found.rejected) row.line = lines[row.line - 1].line;
    showAnswer(found);
  } catch (error) {
    if (error instanceof Refused) refuse(error);
    else if (error.name === "AbortError") say("Cancelled: nothing was scored.");
    else throw error;
  } finally {
    const cancelled = running.signal.aborted;
    running = null;
    showRunning(false);
    if (cancelled) $("score").focus();
  }
}

/** The last line of a stream of JSON lines; those before it are progress. */
async function lastLine(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [], last = null;
  const take = (line) => {
    if (!line.trim()) return;
    last = parsed(line);
    if ("done" in last) showProgress(last);
  };
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) break;
    parts.push(value);
    if (!value.includes("\n")) continue; // the answer is one long line
    const lines = parts.join("").split("\n");
    parts = [lines.pop()];
    lines.forEach(take);
  }
  const rest = parts.join("");
  if (last?.problem) throw new Refused(last.problem, last.problem.status);
  if (rest.trim() || !last?.results) {
    const fix = "Nothing of it is shown. Score again; if that fails too, see the server's log.";
    throw new Refused({ title: "The server's answer ended before it was whole", fix });
  }
  return last;
}

function showRunning(on) {
  for (const id of ["progress", "cancel"]) $(id).hidden = !on;
  $("score").disabled = on || !model;
  $("bar").removeAttribute("value");
  $("counted").textContent = "sending";
  if (!on) return;
  $("cancel").focus();
  if (answer) $("results-title").textContent = `Earlier: ${resultsTitle()}`;
}

function showProgress({ done, total }) {
  $("bar").max = Math.max(total, 1);
  $("bar").value = done;
  $("counted").textContent = `${whole(done)} of ${plural(total, "sequence")}`;
}

function refuse({ problem, status, wait }) {
  if (status === 401) askToken(problem);
  else showProblem(problem, wait);
  if (status === 503) loadModel(); // not ready, or only busy
}

function showProblem({ title, status, detail = "", fix = "" }, wait = 0) {
  $("problem-title").textContent = status ? `Nothing was scored (${status} ${title})` : title;
  $("problem-detail").textContent = detail;
  $("problem-fix").textContent = fix + (wait ? ` Try again in ${wait} s.` : "");
  $("problem").hidden = false;
  say("");
  $("problem").focus();
}

// --- the answer

function showAnswer(found) {
  answer = found;
  answer.results.forEach((row, at) => { row.number = at + 1; });
  if (answer.model.sha256 !== model?.sha256) loadModel().then(drawHistogram); // reloaded since
  $("results-title").textContent = resultsTitle();
  const { name, variant, provider, sha256 } = answer.model;
  const threshold = answer.threshold + (answer.assay ? ` (${answer.assay})` : "");
  $("results-model").textContent = `Called non-specific above ${threshold}. `
    + `Scored by ${name} (${sha256.slice(0, 12)}), ${variant} on ${provider}. Scores are shown with ${DECIMALS} decimals; the CSV has every digit.`;
  $("flagged").hidden = !flaggedRows().length;
  $("flagged").textContent = flagWords();
  const formulas = [...answer.results, ...answer.rejected].filter((row) => /^[=+\-@\t\r]/.test(row.id)).length;
  $("formulas").hidden = !formulas;
  $("formulas").textContent = `${plural(formulas, "id begins", "ids begin")} with =, +, - or @, `
    + "which a spreadsheet may run as a formula. The CSV has ids as they were given: import its columns as text.";
  $("results").hidden = false;
  $("rejected").hidden = !answer.rejected.length;
  $("rejected-title").textContent = `${plural(answer.rejected.length, "record")} left out`;
  rejectedTable.show(answer.rejected);
  for (const id of ["find", "call", "flag"]) $(id).value = "";
  filterScores();
  drawHistogram();
  say(`Done: ${resultsTitle()}.`);
  $("results-title").focus();
}

const called = (row) => row.nonspecific !== null;
const flaggedRows = () => answer.results.filter((row) => row.flag);

function resultsTitle() {
  const nonspecific = answer.results.filter((row) => row.nonspecific).length;
  const flagged = flaggedRows().length ? `, ${whole(flaggedRows().length)} flagged` : "";
  const left = answer.rejected.length ? `, ${whole(answer.rejected.length)} left out` : "";
  const scored = `${plural(answer.results.length, "sequence")} scored`;
  return `${scored}, ${whole(nonspecific)} called non-specific${flagged}${left}`;
}

/** How many rows are flagged, for which reasons, and how many of them have no call. */
function flagWords() {
  const flagged = flaggedRows().length;
  const without = answer.results.filter((row) => !called(row)).length;
  const reasons = Object.entries(answer.flags).map(([reason, count]) => `${reason} ${whole(count)}`).join(", ");
  const text = `Flagged: ${whole(flagged)} of ${plural(answer.results.length, "record")} (${reasons}).`;
  if (!without) return `${text} All of them keep their call.`;
  return `${text} ${whole(without)} of them ${without === 1 ? "has" : "have"} a score but no call: the model was not `
    + "trained on such records, and their scores mean nothing.";
}

function filterScores() {
  const text = $("find").value.trim().toLowerCase();
  const call = $("call").value, flag = $("flag").value;
  const kept = answer.results.filter((row) =>
    (!call || String(row.nonspecific ?? "-") === call)
    && (!flag || Boolean(row.flag) === (flag === "flagged"))
    && (!text || row.id.toLowerCase().includes(text) || row.sequence.toLowerCase().includes(text)));
  scoresTable.show(kept, answer.results.length);
}

/** Number, bar, and where the threshold lies on it. */
function measure(row) {
  const fill = make("div", { class: "fill" }), tick = make("div", { class: "tick" });
  fill.style.width = `${100 * row.p_nonspecific}%`;
  tick.style.left = `${100 * answer.threshold}%`;
  const track = make("div", { class: "track", "aria-hidden": "true" }, fill, tick);
  return make("div", { class: "measure" }, make("span", {}, row.p_nonspecific.toFixed(DECIMALS)), track);
}

const isolated = (text) => make("bdi", {}, text); // an id may turn the direction of what follows it

/** The call in words; a dash for the eye and words for a screen reader if there is none. */
function callOf(row) {
  if (called(row)) return row.nonspecific ? "non-specific" : "specific";
  const dash = make("span", { "aria-hidden": "true" }, "-");
  return make("span", { title: NO_CALL }, dash, make("span", { class: "hidden-text" }, "no call"));
}

/** The flag, and of a trimmed record which residues were scored. */
function flagOf(row) {
  const trimmed = row.domain ? `residues ${row.domain} scored` : "";
  return [row.flag, trimmed].filter(Boolean).join("; ");
}

/** A table of which one page of rows is in the document, however many there are. */
class PagedTable {
  /** columns: {kind, title, cell(row)}, and value(row), descending where it can be sorted by. */
  constructor(host, caption, columns, rowClass = () => "") {
    Object.assign(this, { columns, rowClass, rows: [], total: 0, page: 0, sorted: 0, descending: false });
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

const scoresTable = new PagedTable(
  $("scores"),
  "Scores",
  [
    { kind: "number", title: "No.", value: (row) => row.number, cell: (row) => whole(row.number) },
    { kind: "id", title: "Id", value: (row) => row.id, cell: (row) => isolated(row.id) },
    { kind: "score", title: "p non-specific", value: (row) => row.p_nonspecific, descending: true, cell: measure },
    { kind: "call", title: "Called", cell: callOf },
    { kind: "flag", title: "Flag", value: (row) => row.flag, descending: true, cell: flagOf },
    { kind: "sequence", title: "Sequence", cell: (row) => row.sequence },
  ],
  (row) => (called(row) ? (row.nonspecific ? "nonspecific" : "specific") : "no-call"),
);
const rejectedTable = new PagedTable($("rejects"), "Records that were left out", [
  { kind: "number", title: "Line", cell: (row) => whole(row.line) },
  { kind: "id", title: "Id", cell: (row) => isolated(row.id) },
  { kind: "reason", title: "Reason", cell: (row) => row.reason },
]);

// --- the histogram of rows with a call: each group's share of its own rows a bin, so that groups of any size compare

/** Rows a bin: a bin holds its lower edge, the last one its upper edge too, as in the model's own counts. */
function counted(edges, values) {
  const counts = new Array(edges.length - 1).fill(0);
  for (const value of values) {
    const above = edges.findIndex((edge) => edge > value);
    counts[above < 0 ? counts.length - 1 : above - 1] += 1;
  }
  return counts;
}

const calledScores = () => answer.results.filter(called).map((row) => row.p_nonspecific);

function groupsOf(edges, scores) {
  const own = { kind: "own", name: "this set", counts: counted(edges, calledScores()) };
  const known = scores
    ? [
      { kind: "specific", name: "training: specific", counts: scores.specific },
      { kind: "nonspecific", name: "training: non-specific", counts: scores.nonspecific },
    ]
    : [];
  return [...known, own].map((group) => ({ ...group, total: group.counts.reduce((sum, n) => sum + n, 0) }));
}

function drawHistogram() {
  if (!answer) return;
  $("histogram").hidden = !calledScores().length;
  if ($("histogram").hidden) return;
  const sameModel = model?.sha256 === answer.model.sha256;
  const scores = sameModel ? model.training?.scores : null;
  const edges = scores?.bin_edges ?? Array.from({ length: BINS + 1 }, (_, at) => at / BINS);
  const groups = groupsOf(edges, scores);
  $("plot").replaceChildren(plot(edges, groups));
  $("legend").replaceChildren(...groups.map(({ kind, name, total }) => {
    const swatch = draw("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" });
    swatch.append(draw("rect", { class: kind, x: 1, y: 1, width: 20, height: 12 }));
    return make("li", {}, swatch, `${name} (${whole(total)})`);
  }));
  $("histogram-words").textContent = histogramWords(edges, groups, sameModel);
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

/** The edges between which the median of rows lies of which only the counts are known. */
function medianBins(edges, { counts, total }) {
  let seen = 0;
  const upTo = counts.map((n) => (seen += n));
  const lower = upTo.findIndex((n) => n >= total / 2), upper = upTo.findIndex((n) => n > total / 2);
  return `${edges[lower]} and ${edges[upper + 1]}`;
}

function histogramWords(edges, groups, sameModel) {
  const { results, threshold } = answer;
  const calls = results.filter(called);
  const above = calls.filter((row) => row.nonspecific).length;
  const without = results.length - calls.length;
  const rest = without ? ` ${plural(without, "more sequence has", "more sequences have")} no call and no bar.` : "";
  const text = `${plural(above, "sequence")} of ${whole(calls.length)} with a call (${percent(above / calls.length)}) `
    + `above the threshold ${threshold}; their median is ${median(calledScores()).toFixed(DECIMALS)}.${rest}`;
  if (groups.length > 1) {
    const repeated = repeats(model.training, " ");
    return `${text} The training set's medians: specific between ${medianBins(edges, groups[0])}, non-specific between `
      + `${medianBins(edges, groups[1])}; each training row was scored by a model fitted without that row `
      + `(cross-validation).${repeated && `${repeated}: a model may have seen it in the other.`} `
      + "Heights are shares of each group.";
  }
  const missing = sameModel ? "'s manifest has no scores of its training set" : "'s training scores are not at hand";
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

function plot(edges, groups) {
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
  const at = x(answer.threshold);
  const anchor = answer.threshold > 0.7 ? "end" : answer.threshold < 0.3 ? "start" : "middle";
  svg.append(draw("path", { class: "threshold", d: `M${at} ${top - 6}V${y(0)}` }));
  const mark = { class: "threshold", x: at, y: 11, "text-anchor": anchor };
  svg.append(draw("text", mark, `threshold ${answer.threshold}`));
  return svg;
}

// --- files, with the command line's bytes

/** p as the command line writes it: the shortest decimal that reads back as the same float32, as Python spells it. */
function decimal(p) {
  const single = Math.fround(p);
  let digits = 0;
  while (Math.fround(Number(single.toExponential(digits))) !== single) digits += 1;
  const [mantissa, exponent] = single.toExponential(digits).split("e-");
  if (single && single < 1e-4) return `${mantissa}e-${exponent.padStart(2, "0")}`;
  const text = String(Number(single.toExponential(digits)));
  return text.includes(".") ? text : `${text}.0`;
}

/** One line of CSV; a row with a carriage return is quoted whole, which every reader takes. */
function csvLine(cells) {
  const texts = cells.map(String);
  const all = texts.some((text) => text.includes("\r"));
  return texts.map((text) => (all || /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(",") + "\n";
}

function download(suffix, header, rows) {
  const blob = new Blob([header, ...rows].map(csvLine), { type: "text/csv" });
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `scores${suffix}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function downloadScores() {
  const names = ["id", "sequence", "p_nonspecific", "nonspecific", "flag", ...(answer.trim ? ["domain"] : [])];
  const cells = (row) => ({ ...row, p_nonspecific: decimal(row.p_nonspecific), nonspecific: row.nonspecific ?? "" });
  download("", names, answer.results.map(cells).map((row) => names.map((name) => row[name])));
}

function downloadRejected() {
  download(".rejected", ["id", "line", "reason"], answer.rejected.map((row) => [row.id, row.line, row.reason]));
}

// --- what the user does

$("input").addEventListener("submit", score);
$("cancel").addEventListener("click", () => running?.abort());
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => $("file").files.length && chooseFile($("file").files[0]));
$("remove").addEventListener("click", () => chooseFile(null));
$("example").addEventListener("click", () => { $("text").value = EXAMPLE; $("text").focus(); noteText(); });
$("assay").addEventListener("change", chooseThreshold);
$("find").addEventListener("input", filterScores);
$("call").addEventListener("change", filterScores);
$("flag").addEventListener("change", filterScores);
$("whole").addEventListener("change", () => $("scores").classList.toggle("whole", $("whole").checked));
$("download").addEventListener("click", downloadScores);
$("download-rejected").addEventListener("click", downloadRejected);
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  loadModel();
});

const noteOfText = $("text-note").textContent;
function noteText() {
  const lines = bareSequences($("text").value);
  const note = lines && `No header: each line is taken for a whole sequence, ${plural(lines.length, "sequence")}.`;
  $("text-note").textContent = note ?? noteOfText;
}
for (const id of ["text", "id-column", "sequence-column"]) $(id).addEventListener("input", noteText);

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
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
  else showProblem({ title: "One file at a time", detail: `${plural(files.length, "file")} were dropped.` });
});

let drawnWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== drawnWidth) drawHistogram();
  drawnWidth = contentRect.width;
}).observe($("plot"));
loadModel();
