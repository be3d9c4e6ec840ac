import { Ago, Empty, Loading, Meter, Page, State, Table, useAction, useConfirm } from "../ui.js";
import { html } from "../lib.js";
import { post } from "../api.js";
import { useData, useNow } from "../data.js";
import { count } from "../format.js";

export function Workers() {
  const { data, error, reload } = useData("workers", null, 2000);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const now = useNow();
  const drain = (worker) => ask({
    title: "Drain the worker?", yes: "Yes, drain it",
    text: `${worker.worker} takes no more jobs and finishes what it has. It can then be stopped.`,
    work: () => act(async () => { await post(`workers/${encodeURIComponent(worker.worker)}/drain`); reload(); }, "It takes no more jobs."),
  });
  const resume = (worker) => act(async () => { await post(`workers/${encodeURIComponent(worker.worker)}/resume`); reload(); }, "It takes jobs again.");
  return html`<${Page} title="Workers" error=${error}>${view}${dialog}
    ${!data ? html`<${Loading} />` : data.length ? html`<${Table} caption="Workers" id=${(w) => w.worker} rows=${data} columns=${[
      ["Worker", (w) => html`<strong class="mono small">${w.worker}</strong><div class="muted small">${w.host}, pid ${w.pid}, version ${w.version}</div>`],
      ["State", (w) => html`<${State} value=${w.state} />`],
      ["Heard", (w) => html`<${Ago} at=${w.seen_at} now=${now} />`],
      ["Agent", (w) => w.agent],
      ["Load", (w) => w.lanes.map((load) => html`<div class="load"><span class="small">${load.lane}</span> <${Meter} value=${load.running} most=${load.concurrency} label=${`running in ${load.lane}`} /></div>`)],
      ["Attempts", (w) => count(w.finished), "num"],
      ["Up since", (w) => html`<${Ago} at=${w.started_at} now=${now} />`],
      ["", (w) => (w.state === "running" ? html`<button disabled=${busy} onClick=${() => drain(w)}>Drain</button>`
        : w.state === "draining" ? html`<button class="primary" disabled=${busy} onClick=${() => resume(w)}>Resume</button>` : "")],
    ]} />` : html`<${Empty} title="No worker was heard of in the last hour">Start one: <code>mesh worker shop.jobs:app</code>. Heartbeats reach the master through a coordinator: <code>mesh master shop.jobs:app</code><//>`}
  <//>`;
}
