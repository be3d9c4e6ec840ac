import { Card, Json, Loading, Page } from "../ui.js";
import { html } from "../lib.js";
import { url } from "../api.js";
import { useData } from "../data.js";

const resolve = (schema, all, depth = 0) => {
  if (!schema || typeof schema !== "object" || depth > 4) return schema;
  if (schema.$ref) return resolve(all[schema.$ref.split("/").pop()], all, depth + 1);
  if (Array.isArray(schema)) return schema.map((item) => resolve(item, all, depth));
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, resolve(value, all, depth)]));
};

function Operation({ method, path, operation, schemas }) {
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  const answer = Object.entries(operation.responses).find(([status]) => status < "300");
  const answered = answer?.[1].content && Object.values(answer[1].content)[0]?.schema;
  return html`<details class="operation"><summary><code>${method.toUpperCase()} ${path}</code></summary>
    <p>${operation.description}</p>
    ${operation.parameters?.length > 0 && html`<h3>Parameters</h3><ul class="plain">${operation.parameters.map((p) => html`<li><code>${p.name}</code> <span class="muted small">in the ${p.in}${p.required ? ", required" : ""}. ${p.description || ""}</span></li>`)}</ul>`}
    ${body && html`<h3>Body</h3><${Json} value=${resolve(body, schemas)} />`}
    ${answer && html`<h3>Answer ${answer[0]}</h3>${answered ? html`<${Json} value=${resolve(answered, schemas)} open=${false} />` : html`<p class="muted">Without a body.</p>`}`}
  </details>`;
}

export function Api() {
  const { data, error } = useData("openapi.json", null, 0);
  if (!data) return html`<${Page} title="HTTP API" error=${error}>${!error && html`<${Loading} />`}<//>`;
  const tags = new Map();
  for (const [path, operations] of Object.entries(data.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags?.[0] || "other";
      tags.set(tag, [...(tags.get(tag) || []), [method, path, operation]]);
    }
  }
  return html`<${Page} title="HTTP API" error=${error}>
    <p class="muted">All that the dashboard does goes through it. For machines: <a href=${url("openapi.json").href}>openapi.json</a>. Programs send <code>Authorization: Bearer KEY</code>; keys are made under Settings.</p>
    <div class="grid">${[...tags].sort().map(([tag, list]) => html`<${Card} key=${tag} title=${tag} wide>
      ${list.map(([method, path, operation]) => html`<${Operation} key=${method + path} method=${method} path=${path} operation=${operation} schemas=${data.components.schemas} />`)}<//>`)}</div>
  <//>`;
}
