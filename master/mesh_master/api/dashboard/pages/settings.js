import { Ago, Card, Loading, Notice, Page, State, Table, useAction, useConfirm } from "../ui.js";
import { html, useState } from "../lib.js";
import { del, patch, post } from "../api.js";
import { useData, useNow } from "../data.js";

const MODES = [
  ["active", "Everything"],
  ["passive", "Jobs are accepted, none starts"],
  ["archive", "Jobs are refused, history can be read"],
];

function Setting({ name, setting, change, busy, may }) {
  const [text, setText] = useState(null);
  const shown = text ?? JSON.stringify(setting.value) ?? "";
  return html`<form class="setting" onSubmit=${(event) => { event.preventDefault(); change({ [name]: parse(shown) }); setText(null); }}>
    <label for=${`s-${name}`}>${name.replaceAll("_", " ")} ${setting.is_default && html`<span class="muted small">default</span>`}</label>
    <input id=${`s-${name}`} class="mono" value=${shown} disabled=${!may} onInput=${(e) => setText(e.target.value)} />
    <button disabled=${busy || text === null}>Set</button>
    <button type="button" class="quiet" disabled=${busy || setting.is_default || !may} onClick=${() => { setText(null); change({ [name]: null }); }}>Default</button>
  </form>`;
}

function parse(text) {
  try { return JSON.parse(text); } catch { return text; }
}

function Keys() {
  const { data, error, reload } = useData("api-keys", null, 10000);
  const { act, busy, view } = useAction();
  const [made, setMade] = useState(null);
  const [dialog, ask] = useConfirm();
  const now = useNow();
  async function create(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    const key = await act(() => post("api-keys", { name: form.get("name"), scope: form.get("scope") }));
    if (key) { setMade(key); event.target.reset(); reload(); }
  }
  const revoke = (key) => ask({ title: `Revoke the key ${key.name}?`, yes: "Yes, revoke it", danger: true, text: "Programs that use it are let in no more, at once.", work: () => act(async () => { await del(`api-keys/${key.id}`); reload(); }, "It is revoked.") });
  return html`<${Card} title="API keys" wide>${error && html`<${Notice} level="error">${error.message}<//>`}${view}${dialog}
    ${made && html`<${Notice} level="ok">The key, which is shown this once: <code class="mono">${made.key}</code><//>`}
    ${data?.length > 0 && html`<${Table} caption="API keys" id=${(k) => k.id} rows=${data} columns=${[
      ["Name", (k) => html`${k.name}<div class="muted small mono">${k.id}</div>`],
      ["Scope", (k) => k.scope],
      ["Made", (k) => html`<${Ago} at=${k.created_at} now=${now} /><div class="muted small">${k.created_by}</div>`],
      ["Used", (k) => html`<${Ago} at=${k.used_at} now=${now} />`],
      ["", (k) => (k.revoked_at ? html`<${State} value="cancelled" /> revoked` : html`<button class="danger" disabled=${busy} onClick=${() => revoke(k)}>Revoke</button>`)],
    ]} />`}
    <form class="search" onSubmit=${create}><label class="sr-only" for="key-name">Name</label><input id="key-name" name="name" required placeholder="What the new key is for" />
      <label class="sr-only" for="key-scope">Scope</label><select id="key-scope" name="scope"><option>read</option><option>operate</option><option>admin</option></select>
      <button disabled=${busy}>Make a key</button></form>
    <p class="muted small">From the first key or user on, nobody gets in without signing in.</p>
  <//>`;
}

function Audit() {
  const { data } = useData("audit", { limit: 50 }, 10000);
  const now = useNow();
  return html`<${Card} title="Who did what" wide>${!data ? html`<${Loading} />` : data.length ? html`<${Table} caption="The audit log" id=${(e) => e.id} rows=${data} columns=${[
    ["When", (e) => html`<${Ago} at=${e.at} now=${now} />`],
    ["Who", (e) => e.who],
    ["What", (e) => html`<span class="mono small">${e.action}</span>`],
    ["To", (e) => html`<span class="mono small">${e.target}</span>`],
    ["Answer", (e) => html`<span class=${e.status < 400 ? "" : "bad-text"}>${e.status}</span>`, "num"],
    ["From", (e) => e.client],
  ]} />` : html`<p class="muted">Nothing yet.</p>`}<//>`;
}

export function Settings({ me }) {
  const { data, error, reload } = useData("settings", null, 5000);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const may = me.scope === "admin";
  const change = (changes) => act(async () => { await patch("settings", changes); reload(); }, "Set. Running processes hear of it within seconds.");
  return html`<${Page} title="Settings" error=${error}>${view}${dialog}
    ${!data ? html`<${Loading} />` : html`<div class="grid">
      <${Card} title="Mode of the cluster">
        <div class="modes" role="radiogroup" aria-label="Mode">${MODES.map(([mode, text]) => html`<label class="mode"><input type="radio" name="mode" disabled=${!may || busy} checked=${data.mode === mode}
          onChange=${() => ask({ title: `Make the cluster ${mode}?`, text, yes: `Yes, ${mode}`, danger: mode !== "active", work: () => change({ mode }) })} /> <strong>${mode}</strong><span class="muted small">${text}</span></label>`)}</div>
      <//>
      <${Card} title="Defaults for all processes">${Object.entries(data.settings).map(([name, setting]) => html`<${Setting} key=${name} name=${name} setting=${setting} change=${change} busy=${busy} may=${may} />`)}
        <p class="muted small">They hold where a process is not told otherwise by its own configuration.</p><//>
      ${may && html`<${Keys} /><${Audit} />`}
    </div>`}
  <//>`;
}
