import { Ago, Card, Empty, Facts, JobLink, Json, Loading, Notice, Page, Progress, State, useAction, useConfirm } from "../ui.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { del, follow, post } from "../api.js";
import { useData, useNow } from "../data.js";
import { between, duration, exact, time } from "../format.js";
import { go, href } from "../router.js";

const OVER = new Set(["succeeded", "failed", "cancelled", "skipped", "expired"]);
const MOST = 5000;

// All that happened to the job, as it comes.
function useEvents(id) {
  const [state, setState] = useState("connecting");
  const [, draw] = useState(0);
  const events = useRef([]);
  useEffect(() => {
    let frame = 0;
    const stop = follow(id, (event) => {
      events.current.push(event);
      if (events.current.length > MOST) events.current.splice(0, events.current.length - MOST);
      // Thousands may come in a second: drawn once a frame.
      if (!frame) frame = requestAnimationFrame(() => { frame = 0; draw((n) => n + 1); });
    }, setState);
    return () => { stop(); cancelAnimationFrame(frame); };
  }, [id]);
  return { events: events.current, state };
}

function Timeline({ job, now }) {
  const attempts = job.attempts;
  if (!attempts.length) return html`<p class="muted">It has not started.</p>`;
  const from = Date.parse(job.enqueued_at);
  const to = Date.parse(attempts[attempts.length - 1].finished_at || "") || (OVER.has(job.state) ? from + 1 : now);
  const span = Math.max(1, to - from);
  const place = (node, a, b) => {
    if (!node) return;
    node.style.insetInlineStart = `${((a - from) / span) * 100}%`;
    node.style.inlineSize = `max(4px, ${((b - a) / span) * 100}%)`;
  };
  return html`<ol class="timeline">${attempts.map((attempt) => {
    const began = Date.parse(attempt.started_at || job.enqueued_at);
    const ended = Date.parse(attempt.finished_at || "") || to;
    return html`<li key=${attempt.attempt}>
      <div class="timeline-text"><strong>Attempt ${attempt.attempt}</strong> <${State} value=${attempt.outcome} />
        <span class="muted small">${duration((ended - began) / 1000)} · ${time(attempt.started_at)} · ${attempt.worker || ""}</span></div>
      <div class="timeline-line"><div class="timeline-bar bar-${attempt.outcome}" ref=${(node) => place(node, began, ended)}></div></div>
      ${attempt.error && html`<div class="small bad-text">${attempt.error.type}: ${attempt.error.message}</div>`}
    </li>`;
  })}</ol>`;
}

function Logs({ events }) {
  const rows = events.filter((e) => e.kind === "log" || e.kind === "lifecycle" || e.kind === "metric");
  const box = useRef(null);
  const stick = useRef(true);
  useEffect(() => { if (stick.current && box.current) box.current.scrollTop = box.current.scrollHeight; }, [rows.length]);
  const watch = (event) => { const b = event.target; stick.current = b.scrollHeight - b.scrollTop - b.clientHeight < 24; };
  if (!rows.length) return html`<p class="muted">Nothing was said yet. In the handler: <code>await ctx.log.info("…")</code></p>`;
  return html`<div class="log" ref=${box} onScroll=${watch} tabIndex="0" role="log" aria-label="What happened">${rows.slice(-2000).map((e) => {
    let level = e.data.level || "info";
    let text = e.data.message;
    if (e.kind === "lifecycle") {
      level = "life";
      text = `${e.data.event}${e.data.attempt > 1 ? ` (attempt ${e.data.attempt})` : ""}${e.data.worker ? ` by ${e.data.worker}` : ""}${e.data.error ? `: ${e.data.error.type}: ${e.data.error.message}` : ""}`;
    } else if (e.kind === "metric") {
      level = "metric";
      text = `${e.data.name} = ${e.data.value}`;
    }
    return html`<div class="log-line log-${level}" key=${e.seq}><time title=${exact(e.at)}>${time(e.at)}</time><span class="log-level">${level}</span><span>${text}${e.data.data && Object.keys(e.data.data).length ? html` <span class="muted">${JSON.stringify(e.data.data)}</span>` : ""}</span></div>`;
  })}</div>`;
}

function Graph({ job }) {
  const node = (other) => html`<a class="node" href=${href(`jobs/${other.id}`)}><span>${other.name}</span> <${State} value=${other.state} />
    <span class="muted small">${other.relation === "enqueued" ? "by its handler" : "runs after"}</span></a>`;
  return html`<div class="graph">
    <div class="column" aria-label="Before">${job.parents.map(node)}</div>
    <div class="column"><div class="node here" aria-current="true"><span>${job.name}</span> <${State} value=${job.state} /></div></div>
    <div class="column" aria-label="After">${job.children.map(node)}</div>
  </div>`;
}

function Edit({ job, text, setText, close, done }) {
  const { act, busy, view } = useAction();
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  async function submit(event) {
    event.preventDefault();
    const made = await act(async () => {
      let payload;
      try { payload = JSON.parse(text); } catch (error) { throw new Error(`That is no JSON: ${error.message}`); }
      return post(`jobs/${job.id}/retry`, { payload });
    });
    if (made) done(made.id);
  }
  return html`<dialog ref=${dialog} onClose=${close} class="large" aria-labelledby="edit-title"><form onSubmit=${submit}>
    <h2 id="edit-title">Run again with other arguments</h2>
    <label>Arguments, as JSON<textarea rows="12" class="mono" spellcheck="false" value=${text} onInput=${(e) => setText(e.target.value)}></textarea></label>
    <p class="muted small">What is shown as [redacted] stays as it was.</p>${view}
    <div class="actions"><button type="button" onClick=${() => dialog.current.close()}>Close</button><button class="primary" disabled=${busy}>Run again</button></div>
  </form></dialog>`;
}

export function JobPage({ id, me }) {
  const { data: job, error, reload } = useData(`jobs/${id}`, null, 3000);
  const { events, state } = useEvents(id);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const [editing, setEditing] = useState(false);
  const [draft, setDraft] = useState(null); // what was typed is there again after Close, or Escape
  const now = useNow();
  const seen = events.length ? events[events.length - 1] : null;
  const life = events.filter((e) => e.kind === "lifecycle").length;
  useEffect(() => { if (life) reload(); }, [life]);
  const progress = useMemo(() => [...events].reverse().find((e) => e.kind === "progress"), [events.length, seen?.seq]);
  const chunks = useMemo(() => events.filter((e) => e.kind === "chunk").map((e) => (typeof e.data === "string" ? e.data : `${JSON.stringify(e.data)}\n`)).join(""), [events.length, seen?.seq]);
  if (!job) return html`<${Page} title="Job" error=${error}>${!error && html`<${Loading} />`}<//>`;
  const over = OVER.has(job.state);
  const actions = html`
    ${!over && html`<button disabled=${busy} class="danger" onClick=${() => ask({ title: "Cancel the job?", text: `${job.name} will not start, or is stopped.`, yes: "Yes, cancel it", danger: true, work: () => act(async () => { await post(`jobs/${id}/cancel`); reload(); }, "It was asked to end.") })}>Cancel</button>`}
    ${over && !job.retried_as && html`<button disabled=${busy} class="primary" onClick=${async () => { const made = await act(() => post(`jobs/${id}/retry`)); if (made) go(`jobs/${made.id}`); }}>Retry</button>
      ${(me.scope === "admin" || job.kind === "system") && html`<button disabled=${busy} onClick=${() => setEditing(true)}>Edit and run again</button>`}`}
    ${over && html`<button disabled=${busy} class="danger" onClick=${() => ask({ title: "Delete the job?", text: "It is forgotten, with all that there is of it.", yes: "Yes, delete it", danger: true, work: async () => { if ((await act(() => del(`jobs/${id}`).then(() => true)))) go("jobs"); } })}>Delete</button>`}`;
  return html`<${Page} title=${job.name} actions=${actions} error=${error}>
    <p class="job-line"><${State} value=${job.state} /> <span class="mono small">${job.id}</span>
      <span class="live live-${state}" role="status">${{ live: "live", ended: "ended", reconnecting: "reconnecting…", connecting: "connecting…", closed: "no live view" }[state]}</span></p>
    ${view}${dialog}
    ${editing && html`<${Edit} job=${job} text=${draft ?? JSON.stringify(job.payload, null, 2)} setText=${setDraft} close=${() => setEditing(false)} done=${(made) => { setEditing(false); go(`jobs/${made}`); }} />`}
    ${job.why.map((reason) => html`<${Notice} level=${reason.trouble ? "warning" : "info"}>${reason.text}${reason.advice ? html`. <strong>${reason.advice}</strong>` : ""}<//>`)}
    ${progress && (progress.data.value === undefined
      ? html`<${Progress} ...${progress.data} />`
      : html`<${Card} title="Progress"><${Json} value=${progress.data.value} /><//>`)}
    <div class="grid">
      <${Card} title="Facts"><${Facts} items=${[
        ["Lane", html`<a href=${href("jobs", { lane: job.lane })}>${job.lane}</a>, priority ${job.priority}`],
        ["Enqueued", html`${time(job.enqueued_at)} (<${Ago} at=${job.enqueued_at} now=${now} />)`],
        ["Due", job.due_at && time(job.due_at)],
        ["Waited", job.started_at && duration(Math.max(0, between(job.due_at || job.enqueued_at, job.started_at)))],
        ["Ran for", job.started_at && duration(between(job.started_at, job.finished_at || now))],
        ["Ended", job.finished_at && time(job.finished_at)],
        ["Attempt", job.attempt],
        ["Agent", job.agent && html`<a href=${href("agents")}>${job.agent}</a>`],
        ["Worker", job.worker],
        ["Schedule", job.schedule && html`<a href=${href(`schedules/${encodeURIComponent(job.schedule)}`)}>${job.schedule}</a>${job.slot ? `, for ${time(job.slot)}` : ""}`],
        ["Key", job.key],
        ["Workflow", job.workflow && html`<a href=${href("jobs", { workflow: job.workflow })}>${job.workflow.slice(-12)}</a>`],
        ["Again of", job.retry_of && html`<${JobLink} id=${job.retry_of} />`],
        ["Done again as", job.retried_as && html`<${JobLink} id=${job.retried_as} />`],
        ...Object.entries(job.meta).map(([name, value]) => [name, html`<a href=${href("jobs", { tag: `${name}=${value}` })}>${value}</a>`]),
      ]} /><//>
      <${Card} title="Attempts"><${Timeline} job=${job} now=${now} /><//>
      ${(job.parents.length > 0 || job.children.length > 0) && html`<${Card} title="Before and after" wide><${Graph} job=${job} /><//>`}
      <${Card} title="What happened" wide><${Logs} events=${events} /><//>
      ${chunks && html`<${Card} title="Stream" wide><pre class="chunks" tabIndex="0">${chunks}</pre><//>`}
      <${Card} title="Arguments">${job.payload === null ? html`<${Empty} title="Not here yet">The master has heard of the job from its worker alone.<//>` : html`<${Json} value=${job.payload} />`}<//>
      ${over && job.state === "succeeded" && html`<${Card} title="Result"><${Json} value=${job.result} /><//>`}
      ${job.error && job.state !== "succeeded" && html`<${Card} title=${job.error.type} wide><p class="bad-text">${job.error.message}</p>
        ${job.error.traceback && html`<pre class="trace" tabIndex="0">${job.error.traceback}</pre>`}<//>`}
    </div>
  <//>`;
}
