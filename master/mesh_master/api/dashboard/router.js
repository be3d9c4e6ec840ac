// Pages by the part of the address behind the #: "#/jobs?state=failed".

import { useEffect, useState } from "./lib.js";

export function parse(hash = location.hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { parts, query: new URLSearchParams(query || "") };
}

// An address that somebody cut off is shown as it is.
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

export function href(path, query) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query || {})) {
    for (const each of Array.isArray(value) ? value : [value]) if (each) search.append(key, each);
  }
  const text = search.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export const go = (path, query) => { location.hash = href(path, query); };

export function setQuery(query) {
  const { parts } = parse();
  history.replaceState(null, "", href(parts.join("/"), query));
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(parse());
  useEffect(() => {
    const changed = () => setRoute(parse());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}
