import { Ago, Empty, JobLink, Loading, Page, State, Table, useAction, useConfirm } from "../ui.js";
import { html, useEffect, useRef, useState } from "../lib.js";
import { post } from "../api.js";
import { useData, useNow } from "../data.js";
import { between, compact, duration } from "../format.js";
import { setQuery } from "../router.js";

const STATES = ["scheduled", "waiting", "queued", "running", "retrying", "succeeded", "failed", "cancelled", "skipped", "expired"];
const OPEN = new Set(STATES.slice(0, 5));
const WORDS = ["name", "lane", "tag", "schedule", "workflow", "parent", "error", "fingerprint", "key", "since", "until"];

const filterOf = (query) => {
  const found = { state: query.getAll("state") };
  for (const word of WORDS) {
    const values = query.getAll(word);
    if (values.length) found[word] = word === "tag" ? values : values[0];
  }
  if (!found.state.length) delete found.state;
  return found;
};

// "name:mail lane:default tag:tenant=42 since:1h", or a handler's name alone.
function parseSearch(text) {
  const found = {};
  for (const part of (text.match(/(?:"[^"]*"|\S)+/g) || []).map((each) => each.replaceAll('"', ""))) {
    const at = part.indexOf(":");
    const word = at > 0 && WORDS.includes(part.slice(0, at)) ? part.slice(0, at) : "name";
    const value = word === "name" && at <= 0 ? part : part.slice(at + 1);
    if (word === "tag") found.tag = [...(found.tag || []), value];
    else found[word] = value;
  }
  return found;
}

const searchOf = (filter) => WORDS.flatMap((word) => [filter[word] || []].flat().map((v) => `${word}:${/\s/.test(v) ? `"${v}"` : v}`)).join(" ");

export function Jobs({ route }) {
  const filter = filterOf(route.query);
  const [pages, setPages] = useState([]);
  const key = JSON.stringify(filter);
  useEffect(() => setPages([]), [key]);
  const cursor = pages[pages.length - 1];
  const { data, error, reload } = useData("jobs", { ...filter, cursor, limit: 50 }, cursor ? 0 : 2000);
  const counts = useData("jobs/count", { ...filter, state: undefined }, 5000);
  const words = searchOf(filter);
  const [text, setText] = useState(words);
  // A link leads to other words than those that are here.
  const shown = useRef(words);
  useEffect(() => {
    // Not at first: by now somebody may have typed.
    if (shown.current !== words) setText(words);
    shown.current = words;
  }, [words]);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const now = useNow();
  const change = (changed) => setQuery({ ...filter, ...changed });
  const toggle = (state) => {
    const states = new Set(filter.state || []);
    if (!states.delete(state)) states.add(state);
    change({ state: [...states] });
  };

  async function bulk(verb, past, danger) {
    const where = { ...filter };
    const counted = await act(() => post(`jobs/${verb}`, { where, dry_run: true }));
    if (!counted) return;
    if (!counted.matched) { act(() => Promise.reject(new Error("No job fits that can be treated so."))); return; }
    ask({
      title: `${verb[0].toUpperCase()}${verb.slice(1)} ${compact(counted.matched)} jobs?`,
      text: `All jobs that fit the filter: ${searchOf(filter)} ${(filter.state || []).join(", ")}`,
      yes: `Yes, ${verb} them`, danger,
      work: () => act(async () => {
        const done = await post(`jobs/${verb}`, { where });
        reload();
        return done;
      }, (done) => `${compact(done.done)} jobs ${past}.`),
    });
  }

  const ended = (filter.state || []).length && filter.state.every((state) => !OPEN.has(state));
  const some = Object.keys(filter).length > 0;
  return html`<${Page} title="Jobs" error=${error}>
    <form class="search" role="search" onSubmit=${(event) => { event.preventDefault(); setQuery({ state: filter.state, ...parseSearch(text) }); }}>
      <label class="sr-only" for="search">Search jobs</label>
      <input id="search" data-search value=${text} onInput=${(event) => setText(event.target.value)} spellcheck="false"
        placeholder="handler name, or lane:mail tag:tenant=42 error:ValueError since:1h" />
      <button>Search</button>
      ${some && html`<button type="button" class="quiet" onClick=${() => { setText(""); setQuery({}); }}>Clear</button>`}
    </form>
    <div class="chips" role="group" aria-label="States">${STATES.map((state) => html`<button type="button" key=${state}
      class="chip" aria-pressed=${(filter.state || []).includes(state)} onClick=${() => toggle(state)}>
      ${state} <span class="muted">${compact(counts.data?.[state] || 0)}</span></button>`)}</div>
    ${some && html`<div class="bulk"><span class="muted">All that fit:</span>
      <button disabled=${busy} onClick=${() => bulk("retry", "are done again")}>Retry</button>
      ${!ended && html`<button disabled=${busy} onClick=${() => bulk("cancel", "were asked to end", true)}>Cancel</button>`}
      <button disabled=${busy} class="danger" onClick=${() => bulk("remove", "are forgotten", true)}>Delete</button></div>`}
    ${view}${dialog}
    ${!data ? html`<${Loading} />` : data.jobs.length ? html`<${Table} caption="Jobs" id=${(job) => job.id} rows=${data.jobs} columns=${[
      ["Job", (job) => html`<${JobLink} id=${job.id} />`],
      ["Handler", (job) => html`<a href="#/jobs?name=${encodeURIComponent(job.name)}">${job.name}</a>`],
      ["Lane", (job) => job.lane],
      ["State", (job) => html`<${State} value=${job.state} />${job.attempt > 1 ? html` <span class="muted small">attempt ${job.attempt}</span>` : ""}`],
      ["Enqueued", (job) => html`<${Ago} at=${job.enqueued_at} now=${now} />`],
      ["Took", (job) => duration(job.started_at ? between(job.started_at, job.finished_at || now) : null), "num"],
      ["", (job) => html`<span class="clip small bad-text">${job.error_type && job.state !== "succeeded" ? `${job.error_type}: ${job.error_message}` : ""}</span>`, "error-cell"],
    ]} />` : html`<${Empty} title=${some ? "No job fits" : "No job yet"}>${some ? "Other words, or fewer, may find some."
      : html`Enqueue one: <code>await add.enqueue(1, 2)</code>, or <code>mesh jobs enqueue NAME</code>`}<//>`}
    <div class="pager">
      ${pages.length > 0 && html`<button onClick=${() => setPages(pages.slice(0, -1))}>Newer</button>`}
      ${data?.next && html`<button onClick=${() => setPages([...pages, data.next])}>Older</button>`}
    </div>
  <//>`;
}
