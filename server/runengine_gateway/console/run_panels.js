// What a run was given, what it returned, what it saved, and how it came to where it is: in tabs.

import { get } from "./api.js";
import { artifactBox } from "./artifacts.js";
import { badge, fill, h, jsonBox } from "./dom.js";
import { fullMoment, moment } from "./words.js";

const TABS = { history: "History", output: "Output", artifacts: "Artifacts", payload: "Payload", context: "Context" };

// The element of the tabs, and `draw()`, which reads `state` of the run's view.
export function runPanels({ app, id, signal, state }) {
  const panel = h("div", { class: "panel", role: "tabpanel", id: "tab-panel", tabindex: "0", "aria-labelledby": "" });
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "About the run", onkeydown: move });
  const tabs = Object.entries(TABS).map(([name, text]) =>
    h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "tab-panel", onclick: () => choose(name) }, text));
  list.append(...tabs);
  const element = h("section", { class: "about" }, list, panel);

  const chosen = () => (state.query.get("tab") in TABS ? state.query.get("tab") : "history");
  const choose = (tab) => app.go(`/runs/${id}`, { step: state.query.get("step"), tab }, { replace: true });

  function move(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
    next.focus();
    next.click();
  }

  // Content that has to be asked for, put in when it has come.
  function later(what, make) {
    const place = h("div", {}, h("p", { class: "soft" }, "Loading…"));
    what.then((found) => place.replaceChildren(...[make(found)].flat().filter(Boolean)), (error) => {
      if (!signal.aborted) place.replaceChildren(h("p", { class: "soft" }, error.message));
    });
    return place;
  }

  const given = (value, none) => (value === null ? h("p", { class: "soft" }, none) : jsonBox(value));

  const CONTENT = {
    payload: (run) => [() => given(run.triggerPayload, "It was triggered without a payload."), null],
    context: (run) => [() => given(run.context, "It was triggered without a context."), null],
    history: () => [history, state.events.length],
    output: (run) => [() => (run.status === "completed" ? later(get(`runs/${id}/output`, {}, signal), output) : h("p", { class: "soft" }, "A run has an output once it has completed.")), run.status],
    artifacts: (run) => [() => later(get(`runs/${id}/artifacts`, { limit: 200 }, signal), artifacts), [run.status, state.steps.map((each) => each.outputArtifactIds)]],
  };

  const output = (found) => (found.artifactId ? artifactBox({ app, id: found.artifactId, signal }) : found.note ? h("p", { class: "soft" }, found.note) : jsonBox(found.output));

  const artifacts = ({ artifacts: found, nextPageToken }) => [
    found.length === 0 ? h("p", { class: "soft" }, "Its steps have saved none.") : h("ul", { class: "plain" }, found.map((each) => h("li", {}, artifactBox({ app, signal, ...each })))),
    nextPageToken && h("p", { class: "soft" }, `The first ${found.length}.`)];

  function history() {
    return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Transitions" }, h("table", { class: "history" },
      h("thead", {}, h("tr", {}, ["When", "Became", "Why", "Who", "Attempt"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, [...state.events].reverse().map((event) => h("tr", {},
        h("td", {}, h("time", { datetime: event.at, title: `${fullMoment(event.at)}, ${event.at}` }, moment(event.at))),
        h("td", {}, badge(event.toStatus)),
        h("td", {}, h("code", {}, event.reason), event.error && h("span", { class: "why" }, event.error.message)),
        h("td", { class: "who-did" }, event.actor, event.impersonator && ` (${event.impersonator} signed in as)`),
        h("td", {}, event.attempt))))));
  }

  function draw() {
    const { run } = state;
    const tab = chosen();
    tabs.forEach((each) => {
      const on = each.id === `tab-${tab}`;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${tab}`);
    const [make, key] = CONTENT[tab](run);
    fill(panel, [tab, key], make);
  }

  return { element, draw };
}
