// One run, live: its graph, its timeline, its errors, and what may be done about it.

import { Problem, follow, get, send, session } from "./api.js";
import { acting, badge, copyable, fill, h } from "./dom.js";
import { graphBox } from "./graph.js";
import { throttled, whileSeen } from "./live.js";
import { runPanels } from "./run_panels.js";
import { stepPanel } from "./step.js";
import { timelineBox } from "./timeline.js";
import { waitingBox } from "./waiting.js";
import { UUID, duration, fullMoment, isActive, learnClock, moment, now, shortId, statusOf } from "./words.js";

const MAX_EARLIER = 10; // attempts before the current one that the timeline shows

// All pages of a list of a run, up to so many.
async function pages(path, name, query, signal, most = 5) {
  const found = [];
  let pageToken = "";
  for (let page = 0; page < most; page += 1) {
    const body = await get(path, { ...query, pageToken }, signal);
    found.push(...body[name]);
    pageToken = body.nextPageToken;
    if (!pageToken) break;
  }
  return found;
}

export function runView({ app, element, params: [id], query: first, signal }) {
  if (!UUID.test(id)) {
    app.title("Not found");
    element.append(h("h1", {}, "That is no id of a run"), h("p", {}, h("a", { href: "#/runs" }, "All runs")));
    return undefined;
  }
  const path = `runs/${id}`;
  const state = { run: null, steps: [], earlier: new Map(), events: [], workflow: undefined, progress: null, query: first };
  app.title(`Run ${shortId(id)}`);

  const heading = h("div", { class: "heading" });
  const facts = h("dl", { class: "facts" });
  const problem = h("div", {});
  const waiting = waitingBox({ app, id, changed: (run) => take(run) });
  const graph = graphBox((stepId) => select(state.steps.findLast((each) => each.stepId === stepId) ?? null, stepId));
  const timeline = timelineBox((step) => select(step, step.stepId));
  const telling = h("p", { class: "telling" });
  const step = stepPanel({ app, id, signal, close: () => select(null, null) });
  const panels = runPanels({ app, id, signal, state });
  const body = h("div", { class: "run" },
    h("section", { class: "panel", "aria-label": "Graph" }, graph.element, telling),
    h("section", { class: "panel", "aria-label": "Timeline of steps" }, timeline.element),
    step.element, panels.element);
  element.append(heading, facts, problem, waiting.element, body);
  body.hidden = true;
  fill(heading, "loading", () => h("p", { class: "soft" }, "Loading…"));

  // Which step the address names: by its id, or by its node where it has not run.
  const selected = () => state.query.get("step");
  function select(chosen, stepId) {
    const wanted = chosen?.id ?? stepId;
    app.go(`/runs/${id}`, { step: wanted === selected() ? null : wanted, tab: state.query.get("tab") }, { replace: true });
  }

  function take(run) {
    if (state.run && run.updatedAt < state.run.updatedAt) return;
    learnClock(run.updatedAt);
    state.run = run;
    draw();
  }

  function draw() {
    const { run } = state;
    if (run === null) return;
    body.hidden = false;
    fill(heading, [run.status, run.waitingFor !== null, run.attempt], () => [
      h("h1", {}, run.workflowName), badge(statusOf(run)), run.attempt > 1 && h("span", { class: "soft" }, `attempt ${run.attempt}`), copyable(id, shortId(id)),
      h("div", { class: "buttons" },
        isActive(run) && acting("Cancel", () => change("cancel"), { class: "danger", "data-focus": "cancel" }),
        ["failed", "cancelled"].includes(run.status) && acting("Retry", () => change("retry"), { class: "primary", "data-focus": "retry" }),
        h("a", { class: "button", href: app.link("/trigger", { from: id }), "data-focus": "again" }, "Trigger again"))]);
    fill(facts, [run.startedAt, run.completedAt, run.context, run.priority], () => [
      fact("Triggered", h("time", { title: fullMoment(run.createdAt) }, moment(run.createdAt))),
      fact("Started", run.startedAt ? h("time", { title: fullMoment(run.startedAt) }, moment(run.startedAt)) : "not yet"),
      fact("Took", h("span", { class: "elapsed" })),
      run.context?.campaignId && fact("Campaign", h("a", { href: app.link(`/campaigns/${run.context.campaignId}`), "data-focus": "campaign" }, h("code", {}, shortId(run.context.campaignId)))),
      run.context?.threadId && fact("Thread", run.context.threadId),
      run.priority !== 0 && fact("Priority", run.priority)]);
    tick();
    fill(problem, run.error, () => run.error && failure(run));
    waiting.draw(run);
    const chosen = state.steps.find((each) => each.id === selected());
    const node = chosen?.stepId ?? selected();
    graph.draw({ workflow: state.workflow, run, steps: state.steps, selected: node });
    timeline.draw({ steps: state.steps, earlier: state.earlier, selected: chosen?.id });
    step.draw({ run, step: chosen, node, earlier: state.earlier, steps: state.steps });
    body.classList.toggle("has-step", !!node);
    fill(telling, state.progress, () => state.progress && [h("strong", {}, state.progress.stepId), " ", state.progress.text]);
    panels.draw();
  }

  const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

  function failure(run) {
    const { code, message, stepId, attempt, retryable } = run.error;
    const failed = state.steps.findLast((each) => each.stepId === stepId && each.status === "failed");
    return h("section", { class: "failure", "aria-label": "Error" },
      h("p", {}, h("code", {}, code), stepId && [" in ", h("button", { type: "button", class: "link", onclick: () => select(state.steps.findLast((each) => each.stepId === stepId) ?? failed, stepId) }, stepId)],
        h("span", { class: "soft" }, ` · attempt ${attempt} · ${retryable ? "a retry may help" : "a retry will meet it again"}`)),
      h("pre", { class: "message", tabindex: "0" }, message));
  }

  async function change(action) {
    try {
      const [method, to] = action === "cancel" ? ["DELETE", path] : ["POST", `${path}/retry`];
      const { body: run, headers } = await send(method, to);
      take(run);
      refresh();
      app.say(action === "cancel" ? "Cancelled." : headers.get("runengine-workers") === "0" ? "Queued again. No worker serves this workflow at the moment." : "Queued again.");
      follows.start();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // A 409 says in words what the run is and what it allows.
      const { status, allowed } = error.metadata;
      app.say(`${error.message}${status && !error.message.includes(status) ? ` It is ${status}.` : ""}${allowed ? ` Possible now: ${allowed}.` : ""}`, "bad");
      refresh();
    }
  }

  async function readEarlier() {
    const most = Math.max(1, ...state.steps.map((each) => each.attempt));
    const known = Math.max(0, ...[...state.earlier.values()].map((each) => each.length));
    for (let attempt = Math.max(1, known + 1, most - MAX_EARLIER); attempt < most; attempt += 1) {
      for (const each of await pages(`${path}/steps`, "steps", { attempt }, signal)) {
        const current = state.steps.find((one) => one.id === each.id);
        if (!current || current.attempt === each.attempt) continue;
        const before = (state.earlier.get(each.id) ?? []).filter((one) => one.attempt !== each.attempt);
        state.earlier.set(each.id, [...before, each].sort((a, b) => a.attempt - b.attempt));
      }
    }
  }

  async function read() {
    try {
      const [run, steps, events] = await Promise.all([
        get(path, {}, signal), pages(`${path}/steps`, "steps", {}, signal), pages(`${path}/events`, "events", {}, signal)]);
      Object.assign(state, { steps, events });
      take(run);
      await readEarlier();
      draw();
      if (state.workflow === undefined) await readWorkflow(run.workflowName);
      draw();
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404 && state.run === null) {
        app.title("Not found");
        fill(heading, "missing", () => [h("h1", {}, "There is no such run"), h("p", {}, "This tenant has no run with the id ", h("code", {}, id), ". ", h("a", { href: "#/runs" }, "All runs"))]);
      } else app.report(error);
    }
  }

  async function readWorkflow(name) {
    state.workflow = null;
    let pageToken = "";
    do {
      const page = await get("workflows", { pageToken }, signal);
      state.workflow = page.workflows.find((each) => each.name === name) ?? null;
      pageToken = page.nextPageToken;
    } while (pageToken && state.workflow === null);
  }

  const refresh = throttled(read, 400);

  function putStep(changed) {
    learnClock(changed.updatedAt);
    const index = state.steps.findIndex((each) => each.id === changed.id);
    if (index < 0) state.steps.push(changed);
    else {
      const before = state.steps[index];
      if (before.updatedAt > changed.updatedAt) return;
      if (before.attempt < changed.attempt) state.earlier.set(changed.id, [...(state.earlier.get(changed.id) ?? []), before]);
      state.steps[index] = changed;
    }
    draw();
  }

  function onEvent(name, data) {
    if (name === "run") take(data);
    else if (name === "step" || name === "stepTransition") putStep(data);
    else if (name === "progress" && data.kind !== "step") tellProgress(data);
    else if (name !== "snapshotEnd") refresh();
  }

  function tellProgress({ stepId, kind, data }) {
    if (kind === "dropped") return;
    const text = kind === "message" ? messageText(data) : typeof data === "string" ? data : JSON.stringify(data);
    if (!text) return;
    const goesOn = kind === "message" && state.progress?.kind === kind && state.progress.stepId === stepId;
    state.progress = { stepId, kind, text: (goesOn ? state.progress.text + text : text).slice(-400) };
    draw();
  }

  const follows = {
    isOn: false,
    start() {
      if (follows.isOn) return;
      follows.isOn = true;
      const until = new AbortController();
      signal.addEventListener("abort", () => until.abort());
      whileSeen(AbortSignal.any([signal, until.signal]), async (seen) => {
        const isOver = () => state.run !== null && !isActive(state.run);
        try {
          await follow(`${path}/watch`, { signal: seen, onEvent, onState: app.live, isOver });
          if (seen.aborted) return;
          until.abort();
          follows.isOn = false;
          state.progress = null;
          await read();
          app.live(isOver() ? "ended" : "broken");
          if (!isOver()) follows.start();
        } catch (error) {
          if (!seen.aborted && error.status !== 404) app.report(error);
        }
      });
    },
  };

  function tick() {
    const { run } = state;
    const elapsed = facts.querySelector(".elapsed");
    if (!run || !elapsed) return;
    const took = run.durationMs ?? (run.status === "running" && run.startedAt ? now() - Date.parse(run.startedAt) : null);
    elapsed.textContent = duration(took) || "–";
    timeline.tick();
  }

  const moving = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 100;
  const timer = setInterval(tick, moving);
  const sized = new ResizeObserver(() => graph.redraw());
  sized.observe(graph.element);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    sized.disconnect();
  });
  session.addEventListener("online", refresh, { signal });
  read();
  follows.start();
  return (query) => {
    state.query = query;
    draw();
  };
}

// The words of a chunk of LangChain's messages, whose content may be a list of parts.
function messageText({ content }) {
  return Array.isArray(content) ? content.map((part) => part.text ?? "").join("") : content ?? "";
}
