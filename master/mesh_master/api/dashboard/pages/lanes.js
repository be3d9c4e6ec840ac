import { Empty, Loading, Meter, Notice, Page, State, Table, useAction, useConfirm } from "../ui.js";
import { html } from "../lib.js";
import { post } from "../api.js";
import { useData, useNow } from "../data.js";
import { between, compact, count, duration } from "../format.js";
import { href } from "../router.js";

export function Lanes() {
  const { data, error, reload } = useData("lanes", null, 2000);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const now = useNow();
  const set = (lane, action, done) => act(async () => { await post(`lanes/${encodeURIComponent(lane)}/${action}`); reload(); }, done);
  const purge = (lane) => ask({
    title: `Purge lane ${lane.lane}?`, danger: true, yes: "Yes, cancel them",
    text: `Its ${compact(lane.queued)} jobs that have not started end as cancelled. What runs goes on.`,
    work: () => act(async () => { const done = await post(`lanes/${encodeURIComponent(lane.lane)}/purge`); reload(); return done; },
      (done) => `${compact(done.cancelled)} jobs are cancelled${done.left ? `; ${compact(done.left)} are held by agents until they are due` : ""}.`),
  });
  return html`<${Page} title="Lanes" error=${error}>
    ${Object.entries(data?.away || {}).map(([name, why]) => html`<${Notice} level="error">Agent ${name} is not counted: ${why}<//>`)}
    ${view}${dialog}
    ${!data ? html`<${Loading} />` : data.lanes.length ? html`<${Table} caption="Lanes" id=${(lane) => lane.lane} rows=${data.lanes} columns=${[
      ["Lane", (lane) => html`<a href=${href("jobs", { lane: lane.lane })}><strong>${lane.lane}</strong></a>`],
      ["State", (lane) => html`<${State} value=${lane.state} />`],
      ["Waiting", (lane) => html`${count(lane.queued)}${lane.agents.length || lane.held ? html`<div class="muted small">${[lane.held ? `${compact(lane.held)} on the master` : "", ...lane.agents.map((a) => `${a.agent}: ${compact(a.ready + a.delayed)}`)].filter(Boolean).join(", ")}</div>` : ""}`, "num"],
      ["Oldest waits", (lane) => (lane.oldest_at ? duration(between(lane.oldest_at, now)) : "–"), "num"],
      ["Running", (lane) => html`<${Meter} value=${lane.running} most=${lane.concurrency} label=${`running in ${lane.lane}`} />`],
      ["Workers", (lane) => (lane.workers ? count(lane.workers) : html`<span class="bad-text">none</span>`), "num"],
      ["", (lane) => html`<div class="row-actions">${lane.state === "active"
        ? html`<button disabled=${busy} onClick=${() => set(lane.lane, "pause", `Lane ${lane.lane} is paused.`)}>Pause</button>
          <button disabled=${busy} onClick=${() => set(lane.lane, "drain", `Lane ${lane.lane} is draining.`)}>Drain</button>`
        : html`<button class="primary" disabled=${busy} onClick=${() => set(lane.lane, "resume", `Lane ${lane.lane} goes on.`)}>Resume</button>`}
        <button class="danger" disabled=${busy || !lane.queued} onClick=${() => purge(lane)}>Purge</button></div>`],
    ]} />` : html`<${Empty} title="No lane yet">Lanes appear with the first worker: <code>mesh worker shop.jobs:app</code><//>`}
  <//>`;
}
