// The shell: the token, the address, the bar at the top, and which view is shown.

import { claims, get, session, setToken } from "./api.js";
import { button, dialog, facts, field, h, render, soft } from "./dom.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { triggerView } from "./trigger.js";
import { UUID } from "./words.js";

const [main, top, notices] = ["main", "top", "notices"].map(id => document.getElementById(id));
const VIEWS = { "/runs": runsView, "/runs/?": runView, "/campaigns/?": runsView, "/trigger": triggerView }; // ? is an id

const JWT = /[\w\-]+\.[\w\-]+\.[\w\-]+/; // whatever was copied before it

let shown = {}, live = "", tenant, asking = false; // no tenant yet: undefined; signed out: null

// What views need of the shell.
const app = {
	link(path, query = {}) {
		const search = new URLSearchParams(Object.entries(query).flatMap(([name, value]) => [value].flat().filter(Boolean).map(each => [name, each])));
		return `#${path}${search.size ? `?${search}` : ""}`;
	},
	go: (path, query) => { location.hash = app.link(path, query); },
	replace(link) {
		history.replaceState(null, "", link);
		show();
	},
	title: text => { document.title = `${text} · runengine`; },
	live(state) {
		live = state;
		drawTop();
	},
	say(text, kind = "good") {
		const notice = notices.appendChild(document.createElement("p"));
		Object.assign(notice, { className: `notice is-${kind}`, textContent: text });
		setTimeout(() => notice.remove(), 8000);
	},
	// That there was no response, or that the token is refused, the page says already.
	report: error => error.name !== "AbortError" && ![0, 401].includes(error.status) && app.say(error.message, "bad"),
	idle: headers => (headers.get("runengine-workers") ? " No worker serves the workflow at the moment." : ""),
};

function takeToken() {
	const fragment = new URLSearchParams(location.hash.slice(1)), token = fragment.get("token");
	if (token === null) return false;
	// Out of the address and the history before anything else.
	history.replaceState(null, "", `#${fragment.get("to") ?? "/runs"}`);
	setToken(token);
	return true;
}

function leave() {
	shown.stop?.abort();
	[shown, live] = [{}, ""];
}

function show() {
	const [path, search] = (location.hash.slice(1) || "/runs").split("?"), query = new URLSearchParams(search);
	if (session.token && shown.path === path && shown.update) return void shown.update(query);
	leave();
	const stop = new AbortController();
	render(main, h(".view", { key: stop }, soft("Loading…")));
	const element = main.firstChild;
	window.scrollTo(0, 0);
	if (session.token) {
		const id = path.split("/").find(each => UUID.test(each)), view = VIEWS[path.replace(id, "?")];
		shown = { path, stop };
		if (view) shown.update = view({ app, element, id, query, signal: stop.signal });
		else render(element, h("h1", "There is no such page"), h("a", { href: "#/runs" }, "All runs"));
	} else {
		app.title("Sign in");
		element.classList.add("narrow");
		render(element, h("h1", "Sign in with a token"), h("p", "The console shows the runs of one tenant: the organisation of the token."), tokenForm(), h("h2", "Where it comes from"),
			h("p", "Your identity provider. Where ", h("code", "make run"), " runs: the link that it prints, or"), h("pre", ".venv/bin/runengine-server token --org org_demo"));
	}
	drawTop();
}

function tokenForm(done) {
	return h("form.stack", { onsubmit: event => {
		event.preventDefault();
		setToken(event.target.elements.token.value.match(JWT)[0]);
		done?.();
	} }, field("token", "Token", h("input", { required: true, autocomplete: "off", pattern: `.*${JWT.source}\\s*`, title: "A JWT: three parts with dots between them" })),
	soft("It stays in the memory of this page, until that is closed or loaded again."), h("div", h("button.primary", "Continue")));
}

session.addEventListener("expired", async () => {
	if (asking) return;
	asking = true;
	await dialog(close => [h("h2", `The token ${claims()?.expires < Date.now() ? "has expired" : "is not accepted"}`), h("p", "What you see stays as it was. With a new token it goes on from here."), tokenForm(close), button("Sign out", () => {
		close();
		setToken(null);
	}, "quiet")], true);
	asking = false;
});

function drawTop() {
	const { user, expires } = claims() ?? {}, { offline, token } = session, pulse = offline ? "offline" : live, link = (path, text) => h("a", { href: `#${path}`, "aria-current": shown.path === path && "page" }, text);
	render(top, h("a.brand", { href: "#/runs", ariaLabel: "runengine" }, h("img", { src: "console/icon.svg", alt: "", width: 22, height: 22 }), h("span", "runengine")), token && [
		h("nav", { ariaLabel: "Console" }, link("/runs", "Runs"), link("/trigger", "Trigger")),
		h("form.find", { role: "search", onsubmit: find }, h("input", { name: "id", ariaLabel: "Run or campaign, by id", placeholder: "Run or campaign id", pattern: `\\s*${UUID.source}\\s*`, title: "Like 0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e", required: true, spellcheck: "false" })),
		h("span.pulse", { role: "status", class: `is-${pulse}` }, pulse),
		button(tenant || "Token", null, { class: "who", popovertarget: "menu" }),
		h("div", { id: "menu", popover: true }, facts(["Tenant", tenant], ["User", user], ["Good until", expires ? new Date(expires).toLocaleString() : "not said"]), button("Sign out", () => setToken(null)))],
	h(".banner", { role: "alert", class: !offline && "hidden" }, offline && "The server cannot be reached. It is tried again by itself; what you see may be old."));
}

async function find(event) {
	event.preventDefault();
	const id = event.target.elements.id.value.trim().toLowerCase();
	app.go(`/${await get(`runs/${id}`).then(() => "runs", () => "campaigns")}/${id}`);
}

// A second page gets the token from the first, unless pages of two tenants are open.
const others = new BroadcastChannel("runengine-console"), offered = new Map();
others.onmessage = ({ data }) => {
	if (!data) return void (session.token && others.postMessage(session.token));
	offered.set(claims(data)?.tenant, data);
	setTimeout(() => tenant === undefined && offered.size === 1 && setToken(data), 150);
};

session.addEventListener("reach", drawTop);
session.addEventListener("token", () => {
	const next = claims()?.tenant ?? null;
	// Of another tenant nothing may stay in view.
	if (next === tenant && shown.path) return drawTop();
	leave();
	tenant = next;
	show();
});
window.addEventListener("hashchange", () => {
	const before = shown.path;
	takeToken();
	show();
	if (shown.path !== before) main.focus({ preventScroll: true });
});

document.querySelector(".skip").onclick = () => main.focus();

if (!takeToken()) {
	show();
	others.postMessage(null);
}
