// Calls the API with the token, and reads its streams.

const BASE = new URL("../", import.meta.url);

// Tells of `token` (a new one, or none), `expired` (the server refuses it), `offline` and `online`.
export const session = Object.assign(new EventTarget(), { token: null, offline: false });

const tell = (name) => session.dispatchEvent(new Event(name));

// What the token says of its bearer, unchecked: only the server decides what it is good for. `null` for no JWT.
export function claims(token = session.token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (each) => each.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(bytes));
    return { tenant: found.o?.id ?? found.org_id ?? "", user: found.sub ?? "", expires: found.exp * 1000 || null };
  } catch {
    return null;
  }
}

export function setToken(token) {
  session.token = token;
  tell("token");
}

// An error response, or none at all (status 0).
export class Problem extends Error {
  constructor(status, body = {}) {
    super(body.detail ?? (status ? `The server's response has the status ${status}.` : "The server cannot be reached."));
    Object.assign(this, { status, reason: body.reason ?? "", metadata: body.metadata ?? {}, violations: body.violations ?? [] });
  }

  // Whether the same call may do better in a moment.
  get passes() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

function reached(is) {
  if (session.offline === !is) return;
  session.offline = !is;
  tell(is ? "online" : "offline");
}

// Makes a request. `query` may have lists, and absent values; `key` makes a repetition harmless. Raises Problem.
export async function request(method, path, { query = {}, body, key, headers = {}, signal } = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) {
      if (each !== undefined && each !== null && each !== "") url.searchParams.append(name, each);
    }
  }
  const token = session.token;
  const all = { authorization: `Bearer ${token}`, ...headers };
  if (body !== undefined) all["content-type"] = "application/json";
  if (key) all["idempotency-key"] = key;
  let response;
  try {
    const options = { method, headers: all, signal, credentials: "omit", cache: "no-store", redirect: "error" };
    response = await fetch(url, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (signal?.aborted) throw error;
    reached(false);
    throw new Problem(0);
  }
  // 503: the gateway is there, and the server behind it is not.
  reached(![502, 503, 504].includes(response.status));
  if (response.ok) return response;
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  problem.retryAfter = Number(response.headers.get("retry-after")) || 0;
  if (response.status === 401 && token === session.token) tell("expired");
  throw problem;
}

export const get = async (path, query, signal) => (await request("GET", path, { query, signal })).json();

// A key for one intention: whatever is sent with it twice happens once.
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");

// Sends, and once more with the same key where no response came. Returns the body and the headers.
export async function send(method, path, body) {
  const key = newKey();
  for (let left = 2; ; left -= 1) {
    try {
      const response = await request(method, path, { body, key });
      return { body: await response.json(), headers: response.headers };
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 0 || left === 0) throw error;
      await pause(700);
    }
  }
}

export const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => {
    clearTimeout(timer);
    resolve();
  }, { once: true });
});

// Reads Server-Sent Events: yields { event, data, id, retry }, data being parsed JSON.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
      }
      if (Object.keys(fields).length) yield { ...fields, data: fields.data ? JSON.parse(fields.data) : undefined };
    }
  }
}

// Follows a stream until `signal` aborts, or the server says that nothing is left to come (204, or an end after which
// `isOver` holds). Comes back by itself where the stream broke off, with what it had last. An EventSource would not:
// it cannot send a token, and stays away for good after any status but 200. Raises the Problem that waiting does not mend.
export async function follow(path, { query, signal, onEvent, onState, isOver = () => false }) {
  let last, wait = 500;
  while (!signal.aborted) {
    let pauseFor;
    try {
      const headers = { accept: "text/event-stream", ...(last && { "last-event-id": last }) };
      const response = await request("GET", path, { query, headers, signal });
      if (response.status === 204) return;
      onState?.("live");
      for await (const event of events(response)) {
        if (event.id) last = event.id;
        if (event.retry) pauseFor = Math.max(250, Number(event.retry) || 0);
        if (event.event === "problem") break;
        if (event.event) {
          onEvent(event.event, event.data);
          wait = 500;
        }
      }
      if (isOver()) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && !error.passes) throw error;
      if (error.retryAfter) pauseFor = error.retryAfter * 1000;
      if (error.status === 429) onState?.("refused");
      else onState?.("broken");
    }
    await pause((pauseFor ?? wait) * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, 8000);
  }
}
