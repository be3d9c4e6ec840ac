import { Ago, Empty, JobLink, Loading, Page, Table, useAction, useConfirm } from "../ui.js";
import { html } from "../lib.js";
import { post } from "../api.js";
import { useData, useNow } from "../data.js";
import { compact, count } from "../format.js";
import { href, setQuery } from "../router.js";

const SPANS = [["1h", "hour"], ["1d", "day"], ["7d", "week"], ["30d", "month"]];

export function Failed({ route }) {
  const since = route.query.get("since") || "7d";
  const { data, error, reload } = useData("failures", { since, limit: 50 }, 5000);
  const { act, busy, view } = useAction();
  const [dialog, ask] = useConfirm();
  const now = useNow();
  const retry = (group) => ask({
    title: `Do ${compact(group.count - group.retried)} jobs again?`,
    text: `All of ${group.name} that failed with ${group.error_type} in this way and were not done again.`,
    yes: "Yes, retry them",
    work: () => act(async () => {
      const done = await post("jobs/retry", { where: { state: ["failed"], fingerprint: group.fingerprint } });
      reload();
      return done;
    }, (done) => `${compact(done.done)} jobs are done again.`),
  });
  return html`<${Page} title="Failed" error=${error}>
    <div class="chips" role="group" aria-label="Time">${SPANS.map(([span, name]) => html`<button class="chip" aria-pressed=${since === span} onClick=${() => setQuery({ since: span })}>last ${name}</button>`)}</div>
    ${view}${dialog}
    ${!data ? !error && html`<${Loading} />` : data.failures.length ? html`<${Table} caption="Failures that look alike" id=${(g) => g.fingerprint} rows=${data.failures} columns=${[
      ["Jobs", (g) => html`<a href=${href("jobs", { state: "failed", fingerprint: g.fingerprint })}>${count(g.count)}</a>`, "num"],
      ["Handler", (g) => g.name],
      ["Error", (g) => html`<strong>${g.error_type}</strong><div class="clip small">${g.message}</div>`],
      ["Last", (g) => html`<${Ago} at=${g.last_at} now=${now} />`],
      ["First", (g) => html`<${Ago} at=${g.first_at} now=${now} />`],
      ["Latest", (g) => g.job_ids.slice(0, 2).map((id) => html`<${JobLink} id=${id} /> `)],
      ["", (g) => (g.count > g.retried ? html`<button disabled=${busy} onClick=${() => retry(g)}>Retry ${compact(g.count - g.retried)}</button>` : html`<span class="muted small">all done again</span>`)],
    ]} />` : html`<${Empty} title="No job has failed">In this time all went well. Failed jobs are kept here for you to look at and to retry.<//>`}
  <//>`;
}
