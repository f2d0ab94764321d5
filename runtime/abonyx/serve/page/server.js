// Requests to the service, and its answers: a stream of JSON lines, or a problem.

let token = "";

/** Send this token from now on; it is kept until the page is closed or loaded again. */
export function useToken(given) {
  token = given;
}

/** An answer that is no result: its problem+json (title, detail, fix), and how many seconds it asks to wait. */
export class Refused extends Error {
  constructor(problem, status = 0, wait = 0) {
    super(problem.title);
    Object.assign(this, { problem, status, wait });
  }
}

export async function ask(path, options = {}) {
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
export async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const fix = "Check that the server still runs. A file that changed after it was chosen has to be chosen again.";
    throw new Refused({ title: "The server does not answer", detail: "The connection failed or was cut off.", fix });
  }
}

/** What to say of an answer that is by another model than an earlier one; "" = it is by the same. */
export function otherModelWords(found, earlier) {
  const same = found.model.sha256 === earlier.model.sha256 && found.model.variant === earlier.model.variant;
  return same ? "" : `The server has another model by now, ${found.model.name} (variant ${found.model.variant}): `
    + "score again before you compare.";
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
export function parsed(text) {
  const value = json(text);
  if (value instanceof Object) return value;
  const fix = "Check what stands between this page and the server.";
  throw new Refused({ title: "The answer is not that of abonyx", detail: text.slice(0, 500), fix });
}

/** The last line of a stream of JSON lines, which has this part; those before it, {done, total}, are shown. */
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
    const fix = "Nothing of it is shown. Send it again; if that fails too, see the server's log.";
    throw new Refused({ title: "The server's answer ended before it was whole", fix });
  }
  return last;
}
