// One run, live: its graph, its timeline, its errors, and what may be done about it.

import { all, follow, get, send, session } from "./api.js";
import { artifact } from "./artifacts.js";
import { acting, badge, button, chip, chips, copyable, facts, h, heads, icon, idLink, json, later, render, shortId, soft } from "./dom.js";
import { graphOf } from "./graph.js";
import { every, throttled, whileSeen } from "./live.js";
import { timelineOf } from "./timeline.js";
import { waitingFor } from "./waiting.js";
import { duration, isActive, learnClock, statusOf, tookOf, when } from "./words.js";

const MOST_EARLIER = 10; // attempts in the timeline
const MOST_EVENTS = 300;
const noted = (note, value) => (note ? soft(note) : json(value));
const TABS = ["History", "Output", "Artifacts", "Payload", "Context"];

export function runView({ app, element, id, query, signal }) {
	const path = `runs/${id}`, earlier = new Map();
	let run, steps = [], events = [], workflow, attempt, box, watching = false;
	app.title(`Run ${shortId(id)}`);

	const to = changes => app.link(`/${path}`, { ...Object.fromEntries(query), ...changes });
	// The address names a step by its id, or by its node.
	const select = step => {
		attempt = null;
		app.replace(to({ step: step === query.get("step") ? null : step }));
	};
	const graph = graphOf(select), timeline = timelineOf(step => select(step.id));

	function take(changed) {
		if (changed.updatedAt < run?.updatedAt) return;
		learnClock(changed.updatedAt);
		run = changed;
		draw();
	}

	function draw() {
		if (!run || signal.aborted) return;
		const { status, context, error, priority, startedAt } = run, chosen = query.get("step"), campaign = context?.campaignId;
		const step = steps.find(each => each.id === chosen) ?? steps.findLast(each => each.stepId === chosen), node = step?.stepId ?? chosen;
		render(element,
			h(".heading", h("h1", run.workflowName), badge(statusOf(run)), run.attempt > 1 && h("span.soft", `attempt ${run.attempt}`), copyable(id, shortId(id)),
				h(".buttons", isActive(run) && acting("Cancel", () => change("DELETE", path, "Cancelled."), { key: "cancel", class: "danger" }),
					["failed", "cancelled"].includes(status) && acting("Retry", () => change("POST", `${path}/retry`, "Queued again."), { key: "retry", class: "primary" }), h("a.button", { href: app.link("/trigger", { from: id }) }, "Trigger again"))),
			facts(["Triggered", when(run.createdAt)], ["Started", startedAt ? when(startedAt) : "not yet"], ["Took", tookOf(run) || "–"], campaign && ["Campaign", idLink("campaigns", campaign)],
				context?.threadId && ["Thread", context.threadId], priority !== 0 && ["Priority", priority]),
			error && failure(error, error.stepId && [" in ", button(error.stepId, () => select(error.stepId), "link")]),
			waitingFor(run, app.say, take),
			h(".panes", { class: node && "has-step" },
				h("section.panel", { ariaLabel: "Graph" }, workflow !== undefined && h(".graph", { ref: made => sized.observe(box = made) }, graph({ workflow, run, steps, selected: node }, (box ?? element).clientWidth, draw))),
				h("section.panel", { ariaLabel: "Timeline of steps" }, timeline({ steps, earlier, chosen: step?.id }, draw)),
				node && h("aside.panel.step", { ariaLabel: "Step", key: "step" }, stepPanel(step, node)),
				h("div", { key: "about" }, tabs())));
	}

	const failure = ({ code, message, retryable }, where) => h("section.failure", { ariaLabel: "Error" },
		h("p", h("code", code), where, h("span.soft", ` · a retry ${retryable ? "may help" : "will meet it again"}`)), h("pre", { tabindex: 0 }, message));

	function stepPanel(step, node) {
		const times = step ? [...(earlier.get(step.id) ?? []), step] : [], shown = times.find(each => each.attempt === attempt) ?? step;
		const waits = run.waitingFor?.some(({ stepId }) => stepId === node), same = steps.filter(({ stepId }) => stepId === node);
		return [h(".heading", h("h2", node), shown && badge(waits ? "waiting" : shown.status), button(icon("close"), () => select(null), { class: "quiet", ariaLabel: "Close the step" })),
			times.length > 1 && chips("Attempt", times.map(each => h("div", { key: each.attempt }, chip(each.status, `Attempt ${each.attempt}`, each === shown, () => {
				({ attempt } = each);
				draw();
			})))),
			!shown ? soft(isActive(run) ? "It has not run yet." : "The run did not come here.") : [
				facts(["Skill", shown.skillId], ["Recorded", when(shown.createdAt)], shown.durationMs !== null && ["Took", duration(shown.durationMs)], shown.cacheHit && ["Cache", "its result came from there"],
					same.length > 1 && ["Execution", `${same.indexOf(step) + 1} of ${same.length}`]),
				shown.error && failure(shown.error), shown.outputArtifactIds?.map(each => artifact({ id: each })),
				// With its end an attempt has an update.
				later(`${shown.id} ${shown.attempt} ${shown.status}`, () => get(`${path}/steps/${shown.id}/data`, signal, { attempt: shown.attempt }), ({ input, inputNote, update, updateNote }) => [
					h("h3", "Input"), noted(inputNote, input), h("h3", "Update"), noted(updateNote ?? (shown.status !== "completed" && "None: it has not completed."), update)])]];
	}

	function tabs() {
		const tab = TABS.find(each => each === query.get("tab")) ?? TABS[0], given = value => noted(value === null && "None was given.", value);
		const event = ({ at, reason, toStatus, error, actor, impersonator, bulkOperationId, attempt: its }) => h("tr", [when(at), badge(reason === "WAITING" ? "waiting" : toStatus),
			[h("code", reason), bulkOperationId && " with others", error && h("span.why", error.message)], [actor, impersonator && `, as whom ${impersonator} was signed in`], its].map(each => h("td", each)));
		const content = {
			History: () => h("table", heads(["When", "Became", "Why", "Who", "Attempt"]), h("tbody", events.slice(-MOST_EVENTS).toReversed().map(event))),
			Payload: () => given(run.triggerPayload),
			Context: () => given(run.context),
			Output: () => (run.status !== "completed" ? soft("It has none until it has completed.") : later("output", () => get(`${path}/output`, signal),
				({ artifactId, note, output }) => (artifactId ? artifact({ id: artifactId }, true) : noted(note, output)))),
			Artifacts: () => later(`${steps.map(each => each.outputArtifactIds)}`, () => all(`${path}/artifacts`, signal), found => (found.length ? found.map(each => artifact(each)) : soft("Its steps have saved none."))),
		};
		return [h("nav.tabs", { ariaLabel: "About the run" }, TABS.map(each => h("a", { href: to({ tab: each }), "aria-current": each === tab && "page" }, each))),
			h("section.panel.about", { ariaLabel: tab, tabindex: 0, key: tab }, content[tab]())];
	}

	async function change(method, to, words) {
		try {
			const { body, headers } = await send(method, to);
			take(body);
			app.say(words + app.idle(headers));
		} catch (error) {
			app.report(error);
		}
		refresh();
	}

	async function readEarlier() {
		const most = Math.max(1, ...steps.map(each => each.attempt)), known = Math.max(0, ...[...earlier.values()].map(each => each.at(-1).attempt));
		for (let number = Math.max(known + 1, most - MOST_EARLIER); number < most; number += 1) {
			for (const each of await all(`${path}/steps`, signal, { attempt: number })) if (each.attempt < steps.find(step => step.id === each.id)?.attempt) addEarlier(each);
		}
	}

	const addEarlier = step => earlier.set(step.id, [...(earlier.get(step.id) ?? []).filter(each => each.attempt !== step.attempt), step]);

	const refresh = throttled(async () => {
		try {
			let found;
			[found, steps, events] = await Promise.all([get(path, signal), all(`${path}/steps`, signal), all(`${path}/events`, signal)]);
			app.title(`${found.workflowName} ${shortId(id)}`);
			take(found);
			await readEarlier();
			workflow ??= (await all("workflows", signal)).find(({ name }) => name === run.workflowName) ?? null;
			draw();
			watch();
		} catch (error) {
			if (signal.aborted) return;
			if (error.status === 404 && !run) render(element, h("h1", "There is no such run"), h("p", "This tenant has none with the id ", h("code", id), ". ", h("a", { href: "#/runs" }, "All runs")));
			else {
				app.report(error);
				setTimeout(() => session.offline && !signal.aborted && refresh(), 3000);
			}
		}
	}, 400);

	function onEvent(name, data) {
		if (name === "run") take(data);
		else if (name === "step" || name === "stepTransition") {
			const index = steps.findIndex(each => each.id === data.id), before = steps[index];
			if (before?.attempt < data.attempt) addEarlier(before);
			if (!before) steps.push(data);
			else if (before.updatedAt < data.updatedAt) steps[index] = data;
			draw();
		} else if (name === "transition") refresh();
	}

	function watch() {
		if (watching) return;
		if (!isActive(run)) return void app.live("ended");
		watching = true;
		const over = new AbortController();
		whileSeen(AbortSignal.any([signal, over.signal]), async seen => {
			await follow(`${path}/watch`, { signal: seen, onEvent, onState: app.live, isOver: () => !isActive(run) }).catch(app.report);
			if (seen.aborted) return;
			watching = false;
			over.abort();
			refresh();
		});
	}

	const sized = new ResizeObserver(draw);
	every(matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 200, signal, () => run && isActive(run) && draw());
	signal.addEventListener("abort", () => sized.disconnect());
	// Somebody else may have retried it.
	document.addEventListener("visibilitychange", refresh, { signal });
	for (const name of ["token", "reach"]) session.addEventListener(name, () => session.offline || refresh(), { signal });
	refresh();
	return changed => {
		query = changed;
		draw();
	};
}
