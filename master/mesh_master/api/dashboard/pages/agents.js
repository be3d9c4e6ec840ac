import { Ago, Empty, Loading, Page, State, Table, useAction, useConfirm } from "../ui.js";
import { html } from "../lib.js";
import { del, post } from "../api.js";
import { useData, useNow } from "../data.js";
import { count } from "../format.js";

export function Agents() {
  const { data, error, reload } = useData("agents", null, 2000);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const now = useNow();
  const work = (doing, done) => act(async () => { await doing(); reload(); }, done);
  const drain = (agent) => ask({
    title: `Drain agent ${agent.name}?`, yes: "Yes, drain it",
    text: "It is given no more jobs, and what it has is moved to other agents, or to the master. Nothing is lost.",
    work: () => work(() => post(`agents/${agent.name}/drain`), `Agent ${agent.name} is draining.`),
  });
  const remove = (agent) => ask({
    title: `Remove agent ${agent.name}?`, yes: "Yes, remove it", danger: true, text: "It has been drained, and is empty.",
    work: () => work(() => del(`agents/${agent.name}`), `Agent ${agent.name} is removed.`),
  });
  return html`<${Page} title="Agents" error=${error}>${view}${dialog}
    ${!data ? html`<${Loading} />` : data.length ? html`<${Table} caption="Agents" id=${(a) => a.name} rows=${data} columns=${[
      ["Agent", (a) => html`<strong>${a.name}</strong><div class="muted small mono clip">${a.url}</div>`],
      ["State", (a) => (a.away ? html`<span class="state state-failed">away</span><div class="small bad-text">${a.away}</div>` : html`<${State} value=${a.state} />`)],
      ["Lanes", (a) => (a.lanes ? a.lanes.join(", ") : "all")],
      ["Jobs", (a) => count(a.jobs), "num"],
      ["To be recorded", (a) => count(a.lag), "num"],
      ["Recorded", (a) => html`<${Ago} at=${a.seen_at} now=${now} />`],
      ["", (a) => html`<div class="row-actions">${a.state === "draining"
        ? html`<button disabled=${busy} onClick=${() => work(() => post(`agents/${a.name}/undrain`), `Agent ${a.name} is used again.`)}>Use again</button>
          <button class="danger" disabled=${busy || a.jobs || a.lag} onClick=${() => remove(a)}>Remove</button>`
        : html`<button disabled=${busy} onClick=${() => drain(a)}>Drain</button>`}</div>`],
    ]} />` : html`<${Empty} title="No agent">Agents are named in the configuration, or added: <code>mesh agents add NAME nats://host:4222</code><//>`}
  <//>`;
}
