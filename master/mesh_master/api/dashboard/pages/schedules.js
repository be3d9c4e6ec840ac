import { Ago, Card, Empty, Json, JobLink, Loading, Page, State, Table, useAction } from "../ui.js";
import { html, useState } from "../lib.js";
import { post } from "../api.js";
import { useData, useNow } from "../data.js";
import { time } from "../format.js";
import { go, href } from "../router.js";

function Detail({ name }) {
  const { data } = useData(`schedules/${encodeURIComponent(name)}`, null, 5000);
  if (!data) return html`<${Loading} />`;
  return html`<div class="grid">
    <${Card} title="Next">${data.next.length ? html`<ol class="plain">${data.next.map((slot) => html`<li>${time(slot.at)} <span class="muted small">${data.timezone}: ${slot.local.replace("T", " ")}</span></li>`)}</ol>` : html`<p class="muted">None: it is ${data.state}.</p>`}<//>
    <${Card} title="Arguments"><${Json} value=${data.payload} /><//>
    <${Card} title="Lately">${data.ended.length ? html`<ul class="plain">${data.ended.slice(0, 8).map((end) => html`<li><${State} value=${end.state} /> ${time(end.slot)} <${JobLink} id=${end.job_id} /></li>`)}</ul>` : html`<p class="muted">No job of it has ended.</p>`}<//>
  </div>`;
}

const ZONES = ["UTC", ...(Intl.supportedValuesOf?.("timeZone") || [])];

function Explain() {
  const [text, setText] = useState("");
  const [zone, setZone] = useState("");
  const [found, setFound] = useState(null);
  const { act, busy, view } = useAction();
  return html`<${Card} title="What would it mean?" wide>
    <form class="search" onSubmit=${async (event) => { event.preventDefault(); setFound((await act(() => post("schedules/explain", { expression: text, timezone: zone || null }))) || null); }}>
      <label class="sr-only" for="expression">Expression</label>
      <input id="expression" data-search value=${text} onInput=${(e) => setText(e.target.value)} placeholder="0 2 * * *, or every 30 minutes between 09:00 and 18:00 on [mon, fri]" />
      <label class="sr-only" for="zone">Time zone</label>
      <input id="zone" class="zone" list="zones" value=${zone} onInput=${(e) => setZone(e.target.value.trim())} placeholder="the cluster's zone" />
      <datalist id="zones">${ZONES.map((each) => html`<option value=${each}></option>`)}</datalist>
      <button disabled=${busy || !text}>Explain</button>
    </form>${view}
    ${found && html`<p><strong>${found.explain}</strong></p><ol class="plain">${found.next.map((slot) => html`<li>${time(slot.at)} <span class="muted small">${slot.local.replace("T", " ")}</span></li>`)}</ol>`}
  <//>`;
}

export function Schedules({ route }) {
  const { data, error, reload } = useData("schedules", null, 3000);
  const { act, busy, view } = useAction();
  const now = useNow();
  const open = route.parts[1];
  const set = (name, action, done) => act(async () => { await post(`schedules/${encodeURIComponent(name)}/${action}`); reload(); }, done);
  const run = async (name) => {
    const made = await act(() => post(`schedules/${encodeURIComponent(name)}/run`));
    if (made) go(`jobs/${made.id}`);
  };
  return html`<${Page} title="Schedules" error=${error}>${view}
    ${open && html`<h2>${open} <a class="small" href=${href("schedules")}>close</a></h2><${Detail} name=${open} />`}
    ${!data ? html`<${Loading} />` : data.length ? html`<${Table} caption="Schedules" id=${(s) => s.name} rows=${data} columns=${[
      ["Schedule", (s) => html`<a href=${href(`schedules/${encodeURIComponent(s.name)}`)}><strong>${s.name}</strong></a><div class="muted small">${s.handler}</div>`],
      ["When", (s) => html`${s.explain}<div class="muted small mono">${s.expression}</div>`],
      ["Next", (s) => (s.next.length ? html`<${Ago} at=${s.next[0].at} now=${now} /><div class="muted small">${time(s.next[0].at)} here${s.timezone === "UTC" ? "" : `, ${s.next[0].local.slice(11, 16)} in ${s.timezone}`}</div>` : "–")],
      ["Last", (s) => html`<${Ago} at=${s.last_at && Date.parse(s.last_at) > now ? null : s.last_at} now=${now} />`],
      ["State", (s) => html`<${State} value=${s.state} />${s.reason ? html`<div class="small bad-text">${s.reason}</div>` : ""}`],
      ["", (s) => html`<div class="row-actions">${s.state === "active"
        ? html`<button disabled=${busy} onClick=${() => set(s.name, "pause", `${s.name} is paused.`)}>Pause</button>`
        : html`<button class="primary" disabled=${busy} onClick=${() => set(s.name, "resume", `${s.name} goes on.`)}>Resume</button>`}
        <button disabled=${busy} onClick=${() => run(s.name)}>Run now</button></div>`],
    ]} />` : html`<${Empty} title="No schedule yet">In code: <code>app.schedule(nightly, "0 2 * * *")</code><//>`}
    <div class="after"><${Explain} /></div>
  <//>`;
}
