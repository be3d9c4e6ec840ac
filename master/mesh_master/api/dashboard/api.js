// The HTTP API. Every call goes through here: problems become errors, and whether the server can
// be reached is told to whoever listens.

const base = new URL("api/v1/", new URL(".", document.baseURI));

export class Problem extends Error {
  constructor(problem) {
    const fields = (problem.errors || []).map((each) => `${each.field}: ${each.message}`);
    super([problem.detail || problem.title || `The server answered ${problem.status}.`, ...fields].join("; "));
    this.status = problem.status;
    this.type = problem.type;
    this.errors = problem.errors || [];
  }
}

let csrf = null;
const listeners = new Set();
export const connection = { state: "ok", detail: "" };

export function onConnection(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(state, detail = "") {
  if (connection.state === state && connection.detail === detail) return;
  connection.state = state;
  connection.detail = detail;
  listeners.forEach((listener) => listener());
}

export function url(path, query) {
  const target = new URL(path, base);
  for (const [key, value] of Object.entries(query || {})) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") target.searchParams.append(key, each);
    }
  }
  return target;
}

export async function call(method, path, { query, body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (csrf && method !== "GET") headers["x-csrf-token"] = csrf;
  let answer;
  try {
    answer = await fetch(url(path, query), {
      method, headers, signal, credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("offline", "The server cannot be reached.");
    throw new Problem({ status: 0, type: "offline", detail: "The server cannot be reached." });
  }
  const text = await answer.text();
  let data = null;
  try { data = text ? JSON.parse(text) : null; } catch { data = { detail: text.slice(0, 300) }; }
  if (answer.ok) {
    tell("ok");
    return data;
  }
  const problem = new Problem({ status: answer.status, ...(data || {}) });
  if (answer.status === 503) tell("degraded", problem.message);
  else tell("ok");
  if (answer.status === 401 && path !== "session") window.dispatchEvent(new Event("signed-out"));
  throw problem;
}

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, body = {}) => call("POST", path, { body });
export const patch = (path, body) => call("PATCH", path, { body });
export const del = (path) => call("DELETE", path);

let sessions = 0;

// What was asked before somebody signed in, or out, is answered anew.
export async function whoAmI() {
  const before = sessions;
  const me = await get("me");
  if (before !== sessions) return whoAmI();
  csrf = me.csrf;
  return me;
}

export async function signIn(username, password) {
  const me = await post("session", { username, password });
  sessions += 1;
  csrf = me.csrf;
  return me;
}

export async function signOut() {
  await del("session");
  sessions += 1;
  csrf = null;
}

const KINDS = ["lifecycle", "progress", "log", "chunk", "metric", "result"];
const AGAIN = 2000; // milliseconds

// A job's events: each once, in order, over any number of reconnections. A browser comes again by
// itself when a connection breaks, and says what it saw last; not so when the answer is an error,
// such as a proxy's whose server is being restarted: that is done here.
export function follow(jobId, onEvent, onState) {
  let source = null;
  let timer = null;
  let last = -1;
  let over = false;
  function open() {
    if (over) return;
    source = new EventSource(url(`jobs/${jobId}/events`, { after: last }), { withCredentials: true });
    for (const kind of KINDS) {
      source.addEventListener(kind, (message) => {
        const { at, data } = JSON.parse(message.data);
        last = Number(message.lastEventId);
        onEvent({ seq: last, kind, at, data });
      });
    }
    source.addEventListener("open", () => onState("live"));
    source.addEventListener("end", () => { onState("ended"); source.close(); });
    source.addEventListener("error", () => {
      onState("reconnecting");
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(look, AGAIN);
    });
  }
  // Why it was refused: without a job, or without leave, there is nothing to wait for.
  async function look() {
    try {
      await get(`jobs/${jobId}`);
      open();
    } catch (problem) {
      if (problem.status === 404 || problem.status === 403) onState("closed");
      else if (!over) timer = setTimeout(look, AGAIN);
    }
  }
  open();
  return () => { over = true; clearTimeout(timer); source.close(); };
}
