// Requests to the service, and its answers: a stream of JSON lines, or a problem.

let token = "";

/** Send this token from now on; it is kept until the page is closed or reloaded. */
export function useToken(given) {
  token = given;
}

/** An answer that is not a result: its problem+json (title, detail, fix), and how many seconds it asks to wait. */
export class Refused extends Error {
  constructor(problem, status = 0, wait = 0) {
    super(problem.title);
    Object.assign(this, { problem, status, wait });
  }
}

export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  headers.set("X-Abonyx-Page", "1"); // problems then name this page's labels, not the fields of a request
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const response = await reached(fetch(path, { ...options, headers, cache: "no-store" }));
  if (response.ok) return response;
  const text = await reached(response.text());
  const problem = json(text);
  const title = `The server answered ${response.status} ${response.statusText}`; // a proxy did, say
  const known = problem?.title ? problem : { title, detail: text.slice(0, 500) };
  throw new Refused(known, response.status, Number(response.headers.get("Retry-After")) || 0);
}

/** The result of a network promise. A failure becomes a Refused, unless the user cancelled. */
export async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const fix = "Check that the server still runs. A file that changed after it was chosen has to be chosen again.";
    throw new Refused({ title: "The server does not answer", detail: "The connection failed or was cut off.", fix });
  }
}

/** What to say if an answer is from another model than an earlier one; "" = it is from the same model. */
export function otherModelWords(found, earlier) {
  const same = found.model.sha256 === earlier.model.sha256 && found.model.variant === earlier.model.variant;
  return same ? "" : `The server has another model by now, ${found.model.name} (variant ${found.model.variant}): `
    + "score again before you compare.";
}

/** The value of JSON text; null if it is not JSON. */
function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The object in the JSON text of a good answer. A proxy between page and server may have answered instead. */
export function parsed(text) {
  const value = json(text);
  if (value instanceof Object) return value;
  const fix = "Check for a proxy between this page and the server.";
  throw new Refused({ title: "The answer is not from abonyx", detail: text.slice(0, 500), fix });
}

/** The last line of a stream of JSON lines, which has this part. Lines before it, {done, total}, are shown. */
export async function lastLine(response, showProgress, part = "results") {
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
  if (rest.trim() || !last?.[part]) {
    const fix = "Nothing is shown. Try again; if that fails, too, read the server's log.";
    throw new Refused({ title: "The server's answer is incomplete", fix });
  }
  return last;
}
