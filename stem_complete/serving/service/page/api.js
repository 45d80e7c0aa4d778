// Requests to the service that this page came from, and to nothing else.

const TOKEN = "stem-complete-token";
const MEDIA = {
  npy: "application/x-npy", npz: "application/x-npz", tif: "image/tiff", tiff: "image/tiff",
  png: "image/png", csv: "text/csv", tsv: "text/csv", parquet: "application/vnd.apache.parquet",
  h5: "application/x-hdf5", hdf5: "application/x-hdf5", hspy: "application/x-hdf5",
};

/** What the service answered instead of a result (RFC 9457). */
export class Problem extends Error {
  constructor(told, retryAfterS = null) {
    super(told.detail ?? told.title ?? "no reason given");
    Object.assign(this, { told, status: told.status, retryAfterS });
  }
}

/** The token, which is kept until the tab is closed. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN)),
};

const mediaOf = (name) => MEDIA[name.split(".").pop().toLowerCase()];

/** Whether a file of that name may be a scan. */
export const isScan = (name) => mediaOf(name) !== undefined;

/** A file with the media type of its suffix, as browsers know few of these. */
export function typed(file) {
  const media = mediaOf(file.name);
  if (!media) {
    throw new Problem({
      expected: "a file of TIFF, NPY, NPZ, HDF5, PNG, CSV, TSV or Parquet", found: file.name,
      fix: "save the scan as one of these",
    });
  }
  return new File([file], file.name, { type: media });
}

function headers(accept) {
  const own = { Accept: accept };
  if (token.get()) own.Authorization = `Bearer ${token.get()}`;
  return own;
}

function problem(status, text, retryAfter) {
  try {
    return new Problem({ status, ...JSON.parse(text) }, Number(retryAfter) || null);
  } catch {
    return new Problem({ status, expected: "an answer", found: `status ${status}`, fix: "try again" });
  }
}

const silent = () => new Problem({
  expected: "an answer of the service", found: "none", fix: "see whether it runs, and try again",
});

/** The answer to a request that sends nothing, as a `Response`. */
export async function ask(method, path, accept = "application/json", signal = undefined) {
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(accept), signal, cache: "no-cache" });
  } catch (error) {
    throw error.name === "AbortError" ? error : silent();
  }
  if (!answer.ok) throw problem(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

/** The answer to GET. */
export const get = (path, accept, signal) => ask("GET", path, accept, signal);

/**
 * Sends a form; its answer's bytes. XMLHttpRequest, as fetch does not tell how much was sent.
 * `tell` is called with the fraction that was sent, 1 from when the service has all of it.
 */
export function send(path, form, accept, { method = "POST", signal, tell = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(headers(accept))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => tell(event.total ? event.loaded / event.total : 0);
    request.upload.onload = () => tell(1);
    request.onerror = () => reject(silent());
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      if (request.status === 200 || request.status === 201) return resolve(request.response);
      const text = new TextDecoder().decode(request.response);
      return reject(problem(request.status, text, request.getResponseHeader("Retry-After")));
    };
    if (signal?.aborted) return void request.onabort();
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
    return undefined;
  });
}

/** Server-sent events of a path. Not EventSource, which can send no token. */
export async function* events(path, signal) {
  const answer = await get(path, "text/event-stream", signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/, 2)));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}
