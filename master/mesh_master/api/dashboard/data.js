// What pages read from the API, again and again while they are looked at.

import { get } from "./api.js";
import { useCallback, useEffect, useRef, useState } from "./lib.js";

// What was read last stays while it cannot be read anew: pages do not jump when the server is away.
export function useData(path, query, every = 2000) {
  const [state, setState] = useState({ data: null, error: null, key: "" });
  const key = path === null ? "" : `${path}?${JSON.stringify(query || {})}`;
  const latest = useRef(key);
  latest.current = key;
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (!key) return undefined;
    const aborting = new AbortController();
    let timer = null;
    async function read() {
      try {
        const data = await get(path, query, aborting.signal);
        if (latest.current === key) setState({ data, error: null, key });
      } catch (error) {
        if (error.name === "AbortError") return;
        setState((old) => ({ data: old.key === key ? old.data : null, error, key }));
      }
      if (every && !aborting.signal.aborted) timer = setTimeout(again, every);
    }
    function again() {
      // Nobody looks: ask again when somebody does.
      if (document.hidden) document.addEventListener("visibilitychange", read, { once: true });
      else read();
    }
    read();
    return () => {
      aborting.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", read);
    };
  }, [key, turn]);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  return { data: state.key === key ? state.data : null, error: state.error, reload };
}

export function useNow(every = 1000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
