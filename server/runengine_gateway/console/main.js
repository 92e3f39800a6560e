// The shell: the token, the address, the bar at the top, and which view is shown.

import { Problem, claims, get, session, setToken } from "./api.js";
import { campaignView } from "./campaign.js";
import { button, fill, h } from "./dom.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { triggerView } from "./trigger.js";
import { UUID, duration } from "./words.js";

const main = document.querySelector("#main");
const VIEWS = [
  [/^\/runs$/, runsView],
  [/^\/runs\/([^/]+)$/, runView],
  [/^\/campaigns\/([^/]+)$/, campaignView],
  [/^\/trigger$/, triggerView],
];

let shown = { view: null, path: "", stop: null, update: null };
let liveState = "";

// What views need of the shell.
const app = {
  // The hash of a place: `app.link("/runs", { status: ["failed"] })`.
  link(path, query = {}) {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      for (const each of [value].flat()) if (each !== undefined && each !== null && each !== "") search.append(name, each);
    }
    return `#${path}${search.size ? `?${search}` : ""}`;
  },
  go(path, query, { replace = false } = {}) {
    if (!replace) location.hash = app.link(path, query);
    else {
      history.replaceState(null, "", app.link(path, query));
      show();
    }
  },
  title: (text) => { document.title = `${text} · runengine`; },
  live(state) {
    liveState = state;
    drawTop();
  },
  // Says something for some seconds, and to a screen reader.
  say(text, kind = "good") {
    const notice = h("p", { class: `notice is-${kind}` }, text);
    document.querySelector("#notices").append(notice);
    setTimeout(() => notice.remove(), 6000);
  },
  // Shows a problem as a sentence. Returns true where the call may be tried again by itself.
  report(error) {
    if (!(error instanceof Problem)) {
      if (error.name === "AbortError") return false;
      throw error;
    }
    if (error.status !== 401 && error.status !== 0) app.say(error.message, "bad");
    return error.passes;
  },
};

function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return false;
  // Out of the address bar and the history before anything else happens.
  history.replaceState(null, "", `#${fragment.get("to") ?? "/runs"}`);
  setToken(token);
  return true;
}

function show({ focus = false } = {}) {
  if (session.token === null) {
    leave();
    signIn();
    return;
  }
  const [path, search] = (location.hash.slice(1) || "/runs").split("?");
  const query = new URLSearchParams(search);
  const found = VIEWS.find(([pattern]) => pattern.test(path));
  if (shown.view !== null && shown.path === path && shown.update) {
    shown.update(query);
    return;
  }
  leave();
  const stop = new AbortController();
  shown = { view: found?.[1] ?? missing, path, stop, update: null };
  window.scrollTo(0, 0);
  const params = found ? path.match(found[0]).slice(1).map(decodeURIComponent) : [];
  const element = h("div", { class: "view" });
  main.replaceChildren(element);
  shown.update = shown.view({ app, element, params, query, signal: stop.signal }) ?? null;
  drawTop();
  if (focus) main.focus({ preventScroll: true });
}

function leave() {
  shown.stop?.abort();
  shown = { view: null, path: "", stop: null, update: null };
  liveState = "";
}

function missing({ app: { title }, element }) {
  title("Not found");
  element.append(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/runs" }, "All runs")));
}

function tokenForm(onDone) {
  const field = h("textarea", { id: "token", rows: "4", required: true, autocomplete: "off", spellcheck: "false", placeholder: "eyJ…" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  return h("form", {
    class: "stack",
    onsubmit: (event) => {
      event.preventDefault();
      const token = field.value.trim().replace(/^Bearer /i, "").replace(/^export RUNENGINE_TOKEN=/, "");
      if (claims(token) === null) {
        wrong.textContent = "That is no JWT: three parts with dots between them.";
        return;
      }
      setToken(token);
      onDone?.();
    },
  }, h("label", { for: "token" }, "Token"), field, wrong,
  h("p", { class: "soft" }, "It stays in this page's memory, and is gone when the page is closed or loaded again."),
  h("div", {}, h("button", { class: "primary" }, "Continue")));
}

function signIn() {
  app.title("Sign in");
  drawTop();
  main.replaceChildren(h("div", { class: "view narrow" },
    h("h1", {}, "Runs, live"),
    h("p", {}, "The console shows the runs of one tenant: the organisation of your token."),
    tokenForm(),
    h("h2", {}, "Where a token comes from"),
    h("p", {}, "Your identity provider. On a machine that runs ", h("code", {}, "make run"), ": the link that it prints, or "),
    h("pre", { tabindex: "0" }, ".venv/bin/runengine-server token --org org_demo")));
}

const expired = h("dialog", { class: "dialog", "aria-labelledby": "expired-title" });
document.body.append(expired);
session.addEventListener("expired", () => {
  if (expired.open) return;
  const until = claims()?.expires;
  const over = until && until < Date.now();
  expired.replaceChildren(
    h("h2", { id: "expired-title" }, over ? "The token has expired" : "The token is not accepted"),
    h("p", {}, over ? `${duration(Date.now() - until)} ago. ` : "", "What you see stays as it was. With a new token it goes on from here."),
    tokenForm(() => expired.close()),
    button("Sign out", () => { expired.close(); setToken(null); }, { class: "quiet" }));
  expired.showModal();
});
// Not by Escape: nothing would work behind it.
expired.addEventListener("cancel", (event) => event.preventDefault());

const top = document.querySelector("#top");
const LIVE = {
  live: ["live", "Live"],
  polling: ["polling", "Every 2.5 s"],
  broken: ["broken", "Reconnecting"],
  ended: ["ended", "Ended"],
};

function drawTop() {
  const who = session.token && claims();
  fill(top, [shown.path, who, session.offline, session.token === null], () => [
    h("a", { class: "brand", href: "#/runs", "data-focus": "brand" }, h("img", { src: "console/icon.svg", alt: "", width: 22, height: 22 }), "runengine"),
    session.token !== null && [
      h("nav", { "aria-label": "Console" },
        h("a", { href: "#/runs", "aria-current": shown.path === "/runs" ? "page" : null, "data-focus": "runs" }, "Runs"),
        h("a", { href: "#/trigger", "aria-current": shown.path === "/trigger" ? "page" : null, "data-focus": "trigger" }, "Trigger")),
      h("form", { class: "find", role: "search", onsubmit: find },
        h("input", { type: "search", "aria-label": "Run or campaign, by id", placeholder: "Run or campaign id", spellcheck: "false", "data-focus": "find" })),
      h("span", { id: "live", role: "status" }),
      h("details", { class: "who" },
        h("summary", { "data-focus": "who" }, h("span", { class: "tenant" }, who?.tenant || "Token")),
        h("div", { class: "menu" },
          h("dl", {}, h("dt", {}, "Tenant"), h("dd", {}, who?.tenant), h("dt", {}, "User"), h("dd", {}, who?.user),
            h("dt", {}, "Good until"), h("dd", {}, who?.expires ? new Date(who.expires).toLocaleString() : "not said")),
          button("Sign out", () => setToken(null)))),
    ],
  ]);
  const [kind, text] = session.offline ? ["broken", "Offline"] : LIVE[liveState] ?? ["", ""];
  const live = document.querySelector("#live");
  if (live) fill(live, [kind, text], () => kind && h("span", { class: `pulse is-${kind}` }, text));
  document.body.classList.toggle("offline", session.offline);
}

async function find(event) {
  event.preventDefault();
  const id = event.target.querySelector("input").value.trim().toLowerCase();
  if (!UUID.test(id)) {
    app.say("An id looks like 0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e.", "bad");
    return;
  }
  try {
    await get(`runs/${id}`);
    app.go(`/runs/${id}`);
  } catch (error) {
    if (error.status === 404) app.go(`/campaigns/${id}`);
    else app.report(error);
  }
}

// A second page of this browser gets the token from the first, unless two tenants are open.
const others = new BroadcastChannel("runengine-console");
const answers = new Set();
others.addEventListener("message", ({ data }) => {
  if (data === "token?" && session.token !== null) others.postMessage({ token: session.token });
  else if (data.token) answers.add(data.token);
});

async function askOthers() {
  others.postMessage("token?");
  await new Promise((resolve) => { setTimeout(resolve, 120); });
  const tenants = new Set([...answers].map((each) => claims(each)?.tenant));
  if (session.token === null && tenants.size === 1) setToken([...answers].pop());
}

const banner = h("div", { class: "banner", role: "alert", hidden: true });
top.after(banner);
function drawOffline() {
  banner.hidden = !session.offline;
  banner.textContent = session.offline ? "The server cannot be reached. What you see may be out of date; it is tried again by itself." : "";
  drawTop();
}
session.addEventListener("offline", drawOffline);
session.addEventListener("online", drawOffline);
// Of one who is offline nothing asks by itself any more but streams and polls; this is quicker.
window.addEventListener("online", () => session.dispatchEvent(new Event("retry")));

let tenant = null;
session.addEventListener("token", () => {
  const next = session.token && claims()?.tenant;
  // With a new token of the same tenant the view goes on; with another's nothing may stay.
  if (session.token === null || next !== tenant) leave();
  tenant = next;
  show();
  drawTop();
});
window.addEventListener("hashchange", () => {
  if (!takeToken()) show({ focus: true });
});
document.addEventListener("click", (event) => {
  const menu = document.querySelector(".who[open]");
  if (menu && !menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  const menu = document.querySelector(".who[open]");
  if (event.key === "Escape" && menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

if (!takeToken()) {
  show();
  askOthers();
}
