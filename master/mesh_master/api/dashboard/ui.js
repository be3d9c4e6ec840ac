// Parts that pages are made of.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { ago, count, exact } from "./format.js";
import { href } from "./router.js";
import uPlot from "./vendor/uPlot.mjs";

export const State = ({ value }) => html`<span class="state state-${value}">${value}</span>`;

export const Ago = ({ at, now }) =>
  html`<time dateTime=${at || ""} title=${exact(at)}>${ago(at, now)}</time>`;

export const JobLink = ({ id, text }) =>
  html`<a class="mono" href=${href(`jobs/${id}`)}>${text || id.slice(-12)}</a>`;

export function Page({ title, actions, children, error }) {
  useEffect(() => { document.title = `${title} · jobmesh`; }, [title]);
  return html`<main id="main" tabIndex="-1">
    <header class="page-head"><h1>${title}</h1><div class="actions">${actions}</div></header>
    ${error && html`<${Notice} level="error">${error.message}<//>`}
    ${children}
  </main>`;
}

export const Notice = ({ level = "info", children }) =>
  html`<p class="notice notice-${level}" role=${level === "error" ? "alert" : "status"}>${children}</p>`;

export const Empty = ({ title, children }) =>
  html`<div class="empty"><strong>${title}</strong><p>${children}</p></div>`;

export const Loading = () => html`<p class="loading" aria-busy="true">Loading…</p>`;

export function Facts({ items }) {
  return html`<dl class="facts">${items
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export const Card = ({ title, children, aside, wide }) =>
  html`<section class="card ${wide ? "wide" : ""}">
    ${title && html`<header><h2>${title}</h2>${aside}</header>`}${children}
  </section>`;

export const Stat = ({ label, value, tone, link }) => {
  const inner = html`<span class="stat-value">${value}</span><span class="stat-label">${label}</span>`;
  return link ? html`<a class="stat ${tone || ""}" href=${link}>${inner}</a>`
    : html`<div class="stat ${tone || ""}">${inner}</div>`;
};

// Columns: [title, cell(row), class]. On a narrow screen each row becomes a card.
export function Table({ columns, rows, id, caption }) {
  return html`<div class="table-box"><table>
    <caption class="sr-only">${caption}</caption>
    <thead><tr>${columns.map(([title, , kind]) => html`<th scope="col" class=${kind || ""}>${title}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${id(row)}>${columns.map(([title, cell, kind]) =>
      html`<td class=${kind || ""} data-title=${title}>${cell(row)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

export function Meter({ value, most, label }) {
  const share = most ? Math.min(1, value / most) : 0;
  return html`<div class="meter" role="meter" aria-valuenow=${value} aria-valuemin="0" aria-valuemax=${most}
      aria-label=${label}>
    <div class="meter-fill" ref=${(node) => { if (node) node.style.inlineSize = `${share * 100}%`; }}></div>
    <span>${count(value)} / ${count(most)}</span>
  </div>`;
}

export function Progress({ done, total, label }) {
  const share = total ? Math.min(1, done / total) : null;
  return html`<div class="progress" role="progressbar" aria-label=${label || "progress"} aria-valuemin="0"
      aria-valuemax=${total || undefined} aria-valuenow=${done}>
    <div class="progress-fill ${share === null ? "unknown" : ""}"
      ref=${(node) => { if (node) node.style.inlineSize = share === null ? "30%" : `${share * 100}%`; }}></div>
    <span>${label ? `${label}: ` : ""}${count(done)}${total ? ` of ${count(total)} (${Math.round(share * 100)}%)` : ""}</span>
  </div>`;
}

// A question before something that cannot be taken back, or that touches much.
export function useConfirm() {
  const [asked, setAsked] = useState(null);
  const dialog = useRef(null);
  useEffect(() => { if (asked && dialog.current && !dialog.current.open) dialog.current.showModal(); }, [asked]);
  const close = () => { dialog.current?.close(); setAsked(null); };
  const view = asked && html`<dialog ref=${dialog} onClose=${() => setAsked(null)} aria-labelledby="ask-title">
    <form method="dialog" onSubmit=${(event) => { event.preventDefault(); const work = asked.work; close(); work(); }}>
      <h2 id="ask-title">${asked.title}</h2><p>${asked.text}</p>
      <div class="actions"><button type="button" onClick=${close}>No</button>
        <button type="submit" class="primary ${asked.danger ? "danger" : ""}" autofocus>${asked.yes}</button></div>
    </form></dialog>`;
  return [view, setAsked];
}

// Something that a button does: it cannot be pressed twice, and what goes wrong is said.
export function useAction() {
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState(null);
  async function act(work, done) {
    setBusy(true);
    setSaid(null);
    try {
      const result = await work();
      if (done) setSaid({ level: "ok", text: typeof done === "function" ? done(result) : done });
      return result;
    } catch (error) {
      setSaid({ level: "error", text: error.message });
      return undefined;
    } finally {
      setBusy(false);
    }
  }
  const view = said && html`<${Notice} level=${said.level}>${said.text}<//>`;
  return { act, busy, view, clear: () => setSaid(null) };
}

export function Json({ value, name, open = true, depth = 0 }) {
  const label = name === undefined ? "" : html`<span class="json-key">${name}</span>: `;
  if (value === null || typeof value !== "object") {
    const kind = value === null ? "null" : typeof value;
    const text = kind === "string" ? JSON.stringify(value) : String(value);
    return html`<div class="json-leaf">${label}<span class="json-${kind}">${text}</span></div>`;
  }
  const entries = Array.isArray(value) ? value.map((v, i) => [i, v]) : Object.entries(value);
  const [a, b] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return html`<div class="json-leaf">${label}${a}${b}</div>`;
  return html`<details class="json" open=${open && depth < 3}>
    <summary>${label}${a}<span class="muted"> ${entries.length} </span>${b}</summary>
    <div class="json-body">${entries.slice(0, 500).map(([key, item]) =>
      html`<${Json} key=${key} name=${key} value=${item} depth=${depth + 1} open=${open} />`)}
    ${entries.length > 500 && html`<div class="muted">… ${entries.length - 500} more</div>`}</div></details>`;
}

function color(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// Lines over time. `data` is [seconds, ...values], `lines` [{label, color, fill}].
export function Chart({ data, lines, height = 180, format = (v) => String(v), label }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const again = () => setTheme((n) => n + 1);
    window.addEventListener("theme", again);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again);
    return () => { window.removeEventListener("theme", again); dark.removeEventListener("change", again); };
  }, []);
  useLayoutEffect(() => {
    const axis = { stroke: color("muted"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const options = {
      width: box.current.clientWidth, height, cursor: { y: false }, legend: { show: false },
      padding: [8, 24, 0, 0],
      scales: { y: { range: (u, min, max) => [0, Math.max(max, 1) * 1.08] } },
      axes: [{ ...axis, space: 70 }, { ...axis, size: 46, values: (u, ticks) => ticks.map(format) }],
      series: [{}, ...lines.map((line) => ({
        label: line.label, stroke: color(line.color), width: 1.75,
        fill: line.fill ? color(line.color).replace("rgb(", "rgba(").replace(")", ", 0.12)") : undefined,
        points: { show: false },
      }))],
    };
    plot.current = new uPlot(options, data, box.current);
    const watcher = new ResizeObserver(() => plot.current?.setSize({ width: box.current.clientWidth, height }));
    watcher.observe(box.current);
    return () => { watcher.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [theme, lines.length, height]);
  useEffect(() => { plot.current?.setData(data); }, [data]);
  return html`<figure class="chart" role="img" aria-label=${label}>
    <div class="chart-box" ref=${(node) => { box.current = node; if (node) node.style.blockSize = `${height}px`; }}></div>
    <figcaption>${lines.map((line) => html`<span class="key"><i class="swatch swatch-${line.color}"></i>${line.label}</span>`)}</figcaption>
  </figure>`;
}
