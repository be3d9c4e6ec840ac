import { Card, Chart, Empty, Loading, Notice, Page, Stat, Table, Ago, Meter } from "../ui.js";
import { html, useMemo } from "../lib.js";
import { useData, useNow } from "../data.js";
import { between, compact, count, duration } from "../format.js";
import { href } from "../router.js";

const LINES = [
  { label: "succeeded a minute", color: "ok", fill: true },
  { label: "failed a minute", color: "bad", fill: true },
];

// Minutes in which nothing happened are in no bucket.
function perMinute(series) {
  const step = 60;
  const end = Math.floor(Date.now() / 1000 / step) * step;
  const times = Array.from({ length: 60 }, (_, i) => end - (59 - i) * step);
  const found = new Map((series?.buckets || []).map((b) => [Date.parse(b.at) / 1000, b]));
  const column = (pick) => times.map((at) => (found.has(at) ? pick(found.get(at)) : 0));
  return [times, column((b) => b.succeeded), column((b) => b.failed)];
}

// By lane: how long jobs waited for their start in the last hour, and how long they ran, on average.
function latencies(series) {
  const sums = new Map();
  for (const span of series?.buckets || []) {
    const sum = sums.get(span.key) || { waited: 0, waits: 0, seconds: 0, runs: 0 };
    sum.waited += span.waited;
    sum.waits += span.waits;
    sum.seconds += span.seconds;
    sum.runs += span.histogram.reduce((a, b) => a + b, 0);
    sums.set(span.key, sum);
  }
  const mean = (sum, n) => (n ? duration(sum / n) : "–");
  return (lane) => {
    const sum = sums.get(lane) || { waits: 0, runs: 0 };
    return { waited: mean(sum.waited, sum.waits), ran: mean(sum.seconds, sum.runs) };
  };
}

export function Overview() {
  const { data, error } = useData("overview", null, 2000);
  const series = useData("series", { since: "1h", step: 60 }, 5000);
  const byLane = useData("series", { since: "1h", step: 3600, by: "lane" }, 10000);
  const latency = useMemo(() => latencies(byLane.data), [byLane.data]);
  const running = useData("jobs", { state: "running", limit: 10 }, 2000);
  const failed = useData("jobs", { state: "failed", limit: 6 }, 4000);
  const now = useNow();
  const chart = useMemo(() => perMinute(series.data), [series.data]);
  if (!data) return html`<${Page} title="Overview" error=${error}><${Loading} /><//>`;
  const totals = data.totals;
  const waiting = data.lanes.reduce((sum, lane) => sum + lane.queued, 0);
  const minutes = chart[1].map((n, i) => n + chart[2][i]).slice(-6, -1);
  const rate = minutes.reduce((a, b) => a + b, 0) / Math.max(1, minutes.length);
  const lag = Math.max(0, ...data.agents.map((agent) => agent.lag || 0));
  return html`<${Page} title="Overview" error=${error}>
    ${data.attention.map((item) => html`<p class="notice notice-${item.level}"><a href=${href(item.link)}>${item.text}</a></p>`)}
    <div class="stats">
      <${Stat} label="running now" value=${compact(data.running)} link=${href("jobs", { state: "running" })} />
      <${Stat} label="waiting" value=${compact(waiting)} link=${href("lanes")} />
      <${Stat} label="ended a minute" value=${compact(Math.round(rate))} />
      <${Stat} label="failed" value=${compact(totals.failed || 0)} tone=${totals.failed ? "bad" : ""} link=${href("failed")} />
      <${Stat} label="succeeded" value=${compact(totals.succeeded || 0)} link=${href("jobs", { state: "succeeded" })} />
      <${Stat} label="workers" value=${count(data.workers)} tone=${data.workers ? "" : "bad"} link=${href("workers")} />
      <${Stat} label="to be recorded" value=${compact(lag)} tone=${lag > 1000 ? "warn" : ""} link=${href("agents")} />
    </div>
    <div class="grid">
      <${Card} title="Last hour" wide>
        ${series.error ? html`<${Notice} level="error">${series.error.message}<//>`
          : html`<${Chart} data=${chart} lines=${LINES} label="Jobs that succeeded and failed in each minute of the last hour" />`}
      <//>
      <${Card} title="Lanes" aside=${html`<a href=${href("lanes")}>All</a>`} wide>
        ${data.lanes.length ? html`<${Table} caption="Lanes" id=${(lane) => lane.lane} rows=${data.lanes} columns=${[
          ["Lane", (lane) => html`<a href=${href("jobs", { lane: lane.lane })}>${lane.lane}</a>${lane.state === "active" ? "" : html` <span class="state state-${lane.state}">${lane.state}</span>`}`],
          ["Waiting", (lane) => count(lane.queued), "num"],
          ["Oldest waits", (lane) => (lane.oldest_at ? duration(between(lane.oldest_at, now)) : "–"), "num"],
          ["Running", (lane) => html`<${Meter} value=${lane.running} most=${lane.concurrency} label=${`running in ${lane.lane}`} />`],
          ["Mean wait, 1 h", (lane) => latency(lane.lane).waited, "num"],
          ["Mean run, 1 h", (lane) => latency(lane.lane).ran, "num"],
          ["Workers", (lane) => count(lane.workers), "num"],
        ]} />` : html`<${Empty} title="No lane yet">Lanes appear with the first handler: <code>mesh worker shop.jobs:app</code><//>`}
      <//>
      <${Card} title="Running now" aside=${html`<a href=${href("jobs", { state: "running" })}>All</a>`}>
        ${running.data?.jobs.length ? html`<ul class="plain">${running.data.jobs.map((job) => html`<li key=${job.id}>
          <a href=${href(`jobs/${job.id}`)}>${job.name}</a> <span class="muted">${job.lane} · ${duration(between(job.started_at, now))}</span></li>`)}</ul>`
          : html`<p class="muted">Nothing runs at the moment.</p>`}
      <//>
      <${Card} title="Latest failures" aside=${html`<a href=${href("failed")}>All</a>`}>
        ${failed.data?.jobs.length ? html`<ul class="plain">${failed.data.jobs.map((job) => html`<li key=${job.id}>
          <a href=${href(`jobs/${job.id}`)}>${job.name}</a> <span class="muted"><${Ago} at=${job.finished_at} now=${now} /></span>
          <div class="clip small">${job.error_type}: ${job.error_message}</div></li>`)}</ul>`
          : html`<p class="muted">No job has failed.</p>`}
      <//>
    </div>
  <//>`;
}
