// The OpenAPI document for people: every route, what it is asked with, and what it answers.

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}

// A schema with what it refers to written out; one within itself is named.
function whole(schema, schemas, within = []) {
  if (Array.isArray(schema)) return schema.map((each) => whole(each, schemas, within));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return within.includes(name) ? name : whole(schemas[name], schemas, [...within, name]);
  }
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]) => [key, whole(value, schemas, within)]),
  );
}

function body(title, content, schemas) {
  const media = Object.entries(content ?? {}).filter(([, { schema }]) => schema);
  return media.flatMap(([kind, { schema }]) => [
    element("p", `${title} (`, element("code", kind), ")"),
    element("pre", JSON.stringify(whole(schema, schemas), null, 2)),
  ]);
}

function parameters(given) {
  if (!given?.length) return [];
  const items = given.map(({ name, in: where, required, schema, description }) => {
    const kind = schema?.type ?? schema?.oneOf?.map(({ type }) => type).join(" or ") ?? "";
    const facts = [where, kind, required ? "required" : ""].filter(Boolean).join(", ");
    return element("li", element("code", name), ` (${facts}) ${description ?? ""}`);
  });
  return [element("ul", ...items)];
}

function route(method, path, operation, schemas) {
  const name = element("code", `${method.toUpperCase()} ${path}`);
  const [answer] = Object.entries(operation.responses).filter(([status]) => status.startsWith("2"));
  return element(
    "details",
    element("summary", name),
    element("p", operation.description ?? operation.summary ?? ""),
    ...parameters(operation.parameters),
    ...body("Body", operation.requestBody?.content, schemas),
    ...body(`Answer ${answer?.[0]}`, answer?.[1].content, schemas),
    element("p", `Statuses: ${Object.keys(operation.responses).join(", ")}`),
  );
}

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  const { paths, components } = await answer.json();
  const groups = {};
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const shown = route(method, path, operation, components.schemas);
      (groups[operation.tags?.[0] ?? "other"] ??= []).push(shown);
    }
  }
  return Object.entries(groups).flatMap(([tag, routes]) => [element("h2", tag), ...routes]);
}

const routes = document.querySelector("#routes");
show().then(
  (shown) => routes.replaceChildren(...shown),
  (error) => routes.replaceChildren(element("p", `It cannot be shown: ${error.message}`)),
);
