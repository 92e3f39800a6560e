// The runs of the tenant, and the table of runs that the view of a campaign has too.

import { get } from "./api.js";
import { actOnMany } from "./bulk.js";
import { badge, button, fill, h, icon, keyed } from "./dom.js";
import { throttled, watchRuns } from "./live.js";
import { duration, fullMoment, moment, now, shortId, statusOf } from "./words.js";

export const STATUSES = ["queued", "running", "completed", "failed", "cancelled"];
const SINCE = { "": "Any time", "15m": "Last 15 minutes", "1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days" };
const UNITS = { m: 60e3, h: 3600e3, d: 86400e3 };
const ERRORS = [
  "STEP_FAILED", "STEP_TIMED_OUT", "RUN_TIMED_OUT", "WORKFLOW_FAILED", "WORKFLOW_CHANGED", "STATE_TOO_LARGE",
  "VALUE_NOT_STORABLE", "WORKER_LOST", "WORKER_STOPPED", "WAITING_TIMED_OUT",
];

// Buttons of which any may be pressed, each with its exact count where there is one.
export function chips(label, entries, onpress) {
  return h("div", { class: "chips", role: "group", "aria-label": label }, entries.map(({ id, text, pressed, count, status }) =>
    button([status && icon(status), text, count !== undefined && h("span", { class: "count" }, count.toLocaleString())],
      () => onpress(id), { class: `chip ${status ? `is-${status}` : ""}`, "aria-pressed": String(pressed), "data-focus": `chip-${id}` })));
}

const select = (label, options, value, onchange) =>
  h("label", { class: "select" }, h("span", { class: "label" }, label), h("select", { "data-focus": label, onchange: (event) => onchange(event.target.value) },
    Object.entries(options).map(([id, text]) => h("option", { value: id, selected: id === value }, text))));

// A table of runs with selection, pages and actions. `load(pageToken)` returns a page; `onPage` gets each. Returns
// { element, refresh, reset }.
export function runTable({ app, signal, load, onPage, empty, hasCampaign = true }) {
  const selected = new Map();
  let runs = null, next = null, before = [], token = "", last = null, reading = 0;
  const body = h("tbody", { onkeydown: move });
  const all = h("input", { type: "checkbox", "aria-label": "Select all of this page", onchange: () => choose(runs, all.checked) });
  const head = ["Status", "Workflow", "Run", hasCampaign && "Campaign", "Triggered", "Took"].filter(Boolean);
  const table = h("table", { class: "runs" },
    h("thead", {}, h("tr", {}, h("th", { class: "pick" }, all), head.map((each) => h("th", { scope: "col" }, each)))), body);
  const state = h("div", { class: "state" });
  const pager = h("div", { class: "pager" });
  const bar = h("div", { class: "selection", role: "region", "aria-label": "Selected runs" });
  const element = h("div", { class: "table" }, table, state, pager, bar);

  function choose(some, on) {
    for (const run of some) {
      if (on) selected.set(run.id, run);
      else selected.delete(run.id);
    }
    draw();
  }

  function move(event) {
    const row = event.target.closest("tr");
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step) {
      event.preventDefault();
      const place = event.target.type === "checkbox" ? "input" : "a";
      row[step]?.querySelector(place).focus();
      if (event.shiftKey && row[step]) choose(runs.filter((run) => [row, row[step]].some((each) => each.dataset.id === run.id)), true);
    } else if (event.key === "x" && !event.ctrlKey && !event.metaKey) {
      const run = runs.find((each) => each.id === row.dataset.id);
      choose([run], !selected.has(run.id));
    }
  }

  function pick(event, id) {
    const index = runs.findIndex((each) => each.id === id);
    const from = runs.findIndex((each) => each.id === last);
    const range = event.shiftKey && from >= 0 ? runs.slice(Math.min(from, index), Math.max(from, index) + 1) : [runs[index]];
    last = id;
    choose(range, event.target.checked);
  }

  function row(run) {
    const link = app.link(`/runs/${run.id}`);
    return h("tr", {
      onclick: (event) => {
        if (!event.target.closest("a, input, button") && !window.getSelection().toString()) location.hash = link;
      },
    }, h("td", { class: "pick" }, h("input", { type: "checkbox", "aria-label": `Select run ${shortId(run.id)}`, onclick: (event) => pick(event, run.id) })),
    h("td", { class: "status" }), h("td", { class: "name" }, h("a", { href: link }, run.workflowName), h("span", { class: "why" })),
    h("td", { class: "id" }, h("code", { title: run.id }, shortId(run.id))),
    hasCampaign && h("td", { class: "campaign" }, run.context?.campaignId && h("a", { href: app.link(`/campaigns/${run.context.campaignId}`) }, h("code", {}, shortId(run.context.campaignId)))),
    h("td", { class: "when" }, h("time", { datetime: run.createdAt, title: fullMoment(run.createdAt) }, moment(run.createdAt))),
    h("td", { class: "took" }));
  }

  function update(element, run) {
    const status = statusOf(run);
    element.querySelector("input").checked = selected.has(run.id);
    element.classList.toggle("picked", selected.has(run.id));
    fill(element.querySelector(".status"), [status, run.attempt], () => [badge(status), run.attempt > 1 && h("span", { class: "soft" }, ` attempt ${run.attempt}`)]);
    fill(element.querySelector(".why"), [run.error, run.waitingFor?.map((each) => each.stepId)], () => run.error
      ? h("span", { title: run.error.message }, `${run.error.stepId ? `${run.error.stepId}: ` : ""}${run.error.message}`)
      : run.waitingFor && `waits at ${run.waitingFor.map((each) => each.stepId).join(", ")}`);
    const took = run.durationMs ?? (run.status === "running" && run.startedAt ? now() - Date.parse(run.startedAt) : null);
    element.querySelector(".took").textContent = duration(took);
  }

  function draw() {
    if (runs === null) return;
    for (const run of runs) if (selected.has(run.id)) selected.set(run.id, run);
    keyed(body, runs, (run) => run.id, row, update);
    table.hidden = runs.length === 0;
    const here = runs.filter((run) => selected.has(run.id)).length;
    all.checked = here > 0 && here === runs.length;
    all.indeterminate = here > 0 && here < runs.length;
    fill(state, runs.length === 0, () => runs.length === 0 && empty());
    fill(pager, [before.length, next, runs.length, token], () => (before.length > 0 || next || token) && [
      button("Newest", () => turn([], ""), { "data-focus": "newest", disabled: before.length === 0 && !token }),
      button("Newer", () => turn(before.slice(0, -1), before.at(-1)), { "data-focus": "newer", disabled: before.length === 0 }),
      h("span", { class: "soft" }, before.length ? `Page ${before.length + 1}` : token ? "A later page" : "Page 1"),
      button("Older", () => turn([...before, token], next), { "data-focus": "older", disabled: !next })]);
    fill(bar, [...selected.values()].map((run) => [run.id, run.status]), () => selected.size > 0 && [
      h("strong", {}, `${selected.size} selected`),
      button("Retry", () => many("retry"), { "data-focus": "retry" }), button("Cancel", () => many("cancel"), { "data-focus": "cancel", class: "danger" }),
      button("Select none", () => choose([...selected.values()], false), { class: "quiet" })]);
    bar.hidden = selected.size === 0;
  }

  async function many(action) {
    await actOnMany({ app, action, runs: [...selected.values()] });
    selected.clear();
    refresh();
  }

  function turn(stack, to) {
    before = stack;
    token = to;
    window.scrollTo(0, 0);
    refresh();
  }

  async function read() {
    const number = ++reading;
    try {
      const page = await load(token);
      // A slower response to what was asked before is of another filter or page.
      if (signal.aborted || number !== reading) return;
      ({ runs, nextPageToken: next } = page);
      element.classList.remove("loading");
      onPage?.(page);
      draw();
    } catch (error) {
      if (signal.aborted || number !== reading) return;
      element.classList.remove("loading");
      if (error.status === 400 && token) turn([], "");
      else if (!app.report(error) && runs === null) fill(state, error.message, () => h("p", { class: "wrong", role: "alert" }, error.message));
    }
  }

  const refresh = throttled(read, 600);
  const ticking = setInterval(() => runs && keyed(body, runs, (run) => run.id, row, update), 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));
  fill(state, "loading", () => h("p", { class: "soft" }, "Loading…"));
  table.hidden = true;
  bar.hidden = true;
  return {
    element,
    refresh,
    // For another filter: from the first page on.
    reset() {
      before = [];
      token = "";
      element.classList.add("loading");
      read();
    },
  };
}

export function runsView({ app, element, query: first, signal }) {
  let query = first;
  app.title("Runs");
  const filters = h("div", { class: "filters" });
  let workflows = {};
  const table = runTable({ app, signal, empty: none, load: (pageToken) => get("runs", { ...asked(), limit: 50, pageToken }, signal) });
  element.append(h("div", { class: "heading" }, h("h1", {}, "Runs"), h("a", { class: "button primary", href: "#/trigger" }, "Trigger a run")), filters, table.element);

  // Which parameters of GET /runs the address stands for.
  function asked() {
    const since = query.get("since");
    const [, number, unit] = since?.match(/^(\d+)([mhd])$/) ?? [];
    return {
      status: query.getAll("status"), errorCode: query.get("error"), waiting: query.get("waiting") ? "true" : null,
      workflowName: query.get("workflow"), campaignId: query.get("campaign"),
      createdAfter: unit && new Date(now() - number * UNITS[unit]).toISOString(),
    };
  }

  function go(changes) {
    const all = { status: query.getAll("status"), waiting: query.get("waiting"), error: query.get("error"), workflow: query.get("workflow"), campaign: query.get("campaign"), since: query.get("since") };
    app.go("/runs", { ...all, ...changes });
  }

  function press(id) {
    const chosen = new Set(query.getAll("status"));
    if (id === "all") go({ status: [], waiting: "", error: "" });
    else if (id === "waiting") go({ status: [], waiting: query.get("waiting") ? "" : "1", error: "" });
    else {
      if (!chosen.delete(id)) chosen.add(id);
      go({ status: [...chosen], waiting: "", error: "" });
    }
  }

  function draw() {
    const chosen = query.getAll("status");
    const nothing = chosen.length === 0 && !query.get("waiting") && !query.get("error");
    fill(filters, [query.toString(), workflows], () => [
      chips("Status", [
        { id: "all", text: "All", pressed: nothing },
        ...["queued", "running"].map((id) => ({ id, text: id, status: id, pressed: chosen.includes(id) })),
        { id: "waiting", text: "waiting", status: "waiting", pressed: !!query.get("waiting") },
        ...["completed", "failed", "cancelled"].map((id) => ({ id, text: id, status: id, pressed: chosen.includes(id) })),
      ], press),
      select("Workflow", { "": "Any workflow", ...workflows, ...(query.get("workflow") && { [query.get("workflow")]: query.get("workflow") }) },
        query.get("workflow") ?? "", (workflow) => go({ workflow, campaign: "" })),
      select("Triggered", SINCE, query.get("since") ?? "", (since) => go({ since })),
      select("Error", { "": "Any outcome", ...Object.fromEntries(ERRORS.map((each) => [each, each])) }, query.get("error") ?? "",
        (error) => go({ error, status: [], waiting: "" })),
      query.get("campaign") && button([`Campaign ${shortId(query.get("campaign"))}`, icon("close")], () => go({ campaign: "" }), { class: "chip", "aria-pressed": "true" }),
    ]);
  }

  function none() {
    return query.toString()
      ? [h("h2", {}, "No run matches"), h("p", {}, h("a", { href: "#/runs" }, "Show all runs"))]
      : [h("h2", {}, "No runs yet"), h("p", {}, "They appear here as they are triggered."), h("p", {}, h("a", { class: "button primary", href: "#/trigger" }, "Trigger the first"))];
  }

  draw();
  table.reset();
  watchRuns("runs/watch", { signal, onChange: table.refresh, onState: app.live });
  get("workflows", {}, signal).then((page) => {
    workflows = Object.fromEntries(page.workflows.map((each) => [each.name, each.name]));
    draw();
  }, () => undefined);
  return (changed) => {
    query = changed;
    draw();
    table.reset();
  };
}
