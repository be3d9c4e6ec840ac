// The frame around the pages: who is asking, where they are, and what the keys do.

import { connection, onConnection, signIn, signOut, whoAmI } from "./api.js";
import { html, render, useEffect, useRef, useState } from "./lib.js";
import { go, href, useRoute } from "./router.js";
import { Loading } from "./ui.js";
import { Agents } from "./pages/agents.js";
import { Api } from "./pages/api.js";
import { Failed } from "./pages/failed.js";
import { JobPage } from "./pages/job.js";
import { Jobs } from "./pages/jobs.js";
import { Lanes } from "./pages/lanes.js";
import { Overview } from "./pages/overview.js";
import { Schedules } from "./pages/schedules.js";
import { Settings } from "./pages/settings.js";
import { Workers } from "./pages/workers.js";

const PAGES = [
  ["", "Overview", "o", Overview],
  ["jobs", "Jobs", "j", Jobs],
  ["failed", "Failed", "f", Failed],
  ["schedules", "Schedules", "s", Schedules],
  ["lanes", "Lanes", "l", Lanes],
  ["agents", "Agents", "a", Agents],
  ["workers", "Workers", "w", Workers],
  ["settings", "Settings", "e", Settings],
  ["api", "API", "p", Api],
];

const THEMES = ["system", "light", "dark"];

function useTheme() {
  const [theme, setTheme] = useState(localStorage.getItem("mesh-theme") || "system");
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem("mesh-theme", theme);
    window.dispatchEvent(new Event("theme"));
  }, [theme]);
  return [theme, () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])];
}

function useKeys(setHelp) {
  useEffect(() => {
    let waiting = 0;
    let wantsSearch = false;
    // Pages are drawn a moment after they were gone to.
    const drawn = new MutationObserver(() => {
      const search = wantsSearch && document.querySelector("[data-search]");
      if (search) { wantsSearch = false; search.focus(); }
    });
    drawn.observe(document.getElementById("app"), { childList: true, subtree: true });
    function pressed(event) {
      const typing = event.target.closest?.("input, textarea, select, dialog");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") {
        const search = document.querySelector("[data-search]");
        event.preventDefault();
        if (search) search.focus();
        else { wantsSearch = true; go("jobs"); }
      } else if (event.key === "?") {
        setHelp(true);
      } else if (event.key === "g") {
        waiting = Date.now();
      } else if (Date.now() - waiting < 1500) {
        const page = PAGES.find(([, , key]) => key === event.key);
        waiting = 0;
        if (page) go(page[0]);
      }
    }
    window.addEventListener("keydown", pressed);
    return () => { drawn.disconnect(); window.removeEventListener("keydown", pressed); };
  }, []);
}

function Help({ close }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${close} aria-labelledby="help-title">
    <h2 id="help-title">Keys</h2>
    <table class="keys"><tbody>
      <tr><td><kbd>/</kbd></td><td>Search</td></tr>
      ${PAGES.map(([, title, key]) => html`<tr><td><kbd>g</kbd> <kbd>${key}</kbd></td><td>${title}</td></tr>`)}
      <tr><td><kbd>?</kbd></td><td>This</td></tr>
    </tbody></table>
    <form method="dialog" class="actions"><button class="primary">Close</button></form>
  </dialog>`;
}

function Banner() {
  const [, again] = useState(0);
  useEffect(() => onConnection(() => again((n) => n + 1)), []);
  if (connection.state === "ok") return html`<div class="banner-place" role="status"></div>`;
  const text = connection.state === "offline"
    ? "The server cannot be reached. Trying again; what you see is from before."
    : `The master is away, so what you see may be old. Jobs on agents go on. ${connection.detail}`;
  return html`<div class="banner-place" role="status"><p class="banner">${text}</p></div>`;
}

// The session is over while somebody works: what they typed stays on the page behind.
function SignInAgain({ done, cluster }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} class="bare" aria-label="Sign in again" onClose=${() => dialog.current?.showModal()}>
    <${SignIn} done=${done} cluster=${cluster} again /></dialog>`;
}

function SignIn({ done, cluster, again }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  async function submit(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    setBusy(true);
    setError(null);
    try {
      done(await signIn(form.get("username"), form.get("password")));
    } catch (problem) {
      setError(problem.message);
      setBusy(false);
    }
  }
  const form = html`<form class="card" onSubmit=${submit}>
      <img src="assets/icon.svg" alt="" width="36" height="36" />
      <h1>${again ? "Sign in again" : "Sign in"}</h1>
      <p class="muted">${again ? "The session is over. What you typed is still there." : `Cluster ${cluster}`}</p>
      <label>User name<input name="username" autocomplete="username" required autofocus /></label>
      <label>Password<input name="password" type="password" autocomplete="current-password" required /></label>
      ${error && html`<p class="notice notice-error" role="alert">${error}</p>`}
      <button class="primary" disabled=${busy}>Sign in</button>
      <p class="muted small">Users are made where the master's URL is known: <code>mesh users add NAME</code></p>
    </form>`;
  return again ? html`<div class="sign-in">${form}</div>` : html`<main class="sign-in" id="main">${form}</main>`;
}

function Nav({ me, route, theme, nextTheme, leave }) {
  const here = route.parts[0] || "";
  const list = useRef(null);
  // On a narrow screen the pages are a row that is longer than the screen.
  useEffect(() => {
    const link = list.current.querySelector("[aria-current]");
    if (link) list.current.scrollLeft = link.offsetLeft - (list.current.clientWidth - link.offsetWidth) / 2;
  }, [here]);
  return html`<nav class="side" aria-label="Pages">
    <a class="brand" href="#/"><img src="assets/icon.svg" alt="" width="22" height="22" /><span>jobmesh</span><small>${me.cluster}</small></a>
    <ul ref=${list}>${PAGES.map(([path, title]) => html`<li><a href=${href(path)} aria-current=${here === path ? "page" : undefined}>${title}</a></li>`)}</ul>
    <div class="side-foot">
      <button class="quiet" onClick=${nextTheme} title="Change the theme">Theme: ${theme}</button>
      ${me.via === "session"
        ? html`<button class="quiet" onClick=${leave} title=${`Scope: ${me.scope}`}>Sign out ${me.user}</button>`
        : html`<span class="muted small">${me.sign_in === "off" ? html`Sign-in is off<span class="roomy">: this machine only</span>` : `${me.user} (${me.scope})`}</span>`}
    </div>
  </nav>`;
}

function App() {
  const [me, setMe] = useState(null);
  const [again, setAgain] = useState(false);
  const latest = useRef(null);
  const signed = (found) => { latest.current = found; setMe(found); setAgain(false); };
  const [help, setHelp] = useState(false);
  const [theme, nextTheme] = useTheme();
  const route = useRoute();
  useKeys(setHelp);
  useEffect(() => {
    let timer = null;
    async function ask() {
      try {
        const found = await whoAmI();
        // Who came in without signing in has no session that could be over.
        const expired = latest.current?.via === "session" && !found.user;
        setAgain(expired);
        if (!expired) signed(found);
      } catch {
        timer = setTimeout(ask, 2000);
      }
    }
    const out = () => ask();
    ask();
    window.addEventListener("signed-out", out);
    return () => { clearTimeout(timer); window.removeEventListener("signed-out", out); };
  }, []);
  useEffect(() => { window.scrollTo(0, 0); }, [route.parts.join("/")]);
  if (!me) return html`<${Banner} /><${Loading} />`;
  if (!me.user) return html`<${Banner} /><${SignIn} cluster=${me.cluster} done=${signed} />`;
  const [first, second] = route.parts;
  const page = PAGES.find(([path]) => path === (first || ""));
  const leave = async () => { latest.current = null; await signOut(); signed(await whoAmI()); };
  const view = first === "jobs" && second
    ? html`<${JobPage} key=${second} id=${second} me=${me} />`
    : page ? html`<${page[3]} route=${route} me=${me} />`
      : html`<main id="main"><h1>There is no such page</h1><p><a href="#/">To the overview</a></p></main>`;
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the page</a>
    <div class="frame">
      <${Nav} me=${me} route=${route} theme=${theme} nextTheme=${nextTheme} leave=${leave} />
      <div class="content"><${Banner} />${view}</div>
    </div>
    ${again && html`<${SignInAgain} cluster=${me.cluster} done=${signed} />`}
    ${help && html`<${Help} close=${() => setHelp(false)} />`}`;
}

render(html`<${App} />`, document.getElementById("app"));
