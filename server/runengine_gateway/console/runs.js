// The runs of a tenant, and a campaign with its runs.

import { all, get } from "./api.js";
import { artifact } from "./artifacts.js";
import { actOnMany } from "./bulk.js";
import { alert, arrows, badge, button, chip, chips, copyable, facts, h, heads, idLink, options, render, shortId, soft } from "./dom.js";
import { every, throttled, watchRuns } from "./live.js";
import { now, statusOf, tookOf, when } from "./words.js";

const STATUSES = ["queued", "running", "completed", "failed", "cancelled"];
const SINCE = [["15", "Last 15 minutes"], ["60", "Last hour"], ["1440", "Last 24 hours"], ["10080", "Last 7 days"]]; // minutes
const ERRORS = "STEP_FAILED STEP_TIMED_OUT RUN_TIMED_OUT WORKFLOW_FAILED WORKFLOW_CHANGED STATE_TOO_LARGE VALUE_NOT_STORABLE WORKER_LOST WORKER_STOPPED WAITING_TIMED_OUT".split(" ");
const PAGE = 50;

const select = (label, none, list, value, onchange) => h("select", { key: label, ariaLabel: label, value: value ?? "", onchange: ({ target }) => onchange(target.value) },
	options([["", none], ...list]));

// A table of runs with pages, selection and actions. `load(query)` returns a page of those of `filter(query)`.
function runTable({ app, signal, query, watch, load, filter, draw: drawView, empty, campaigns, onChange }) {
	const chosen = new Set(), draw = () => drawView(query);
	let page, problem, before = [], token = "", last, asked = 0, matching = false;

	async function read() {
		const number = ++asked;
		try {
			const found = await load({ ...filter(query), limit: PAGE, pageToken: token });
			// What was asked before is of another filter or page.
			if (number !== asked) return;
			[page, problem] = [found, null];
		} catch (error) {
			if (signal.aborted || number !== asked) return;
			if (error.status === 400 && token) return void turn([], "");
			problem = error.status ? error.message : problem;
		}
		draw();
	}

	function turn(stack, to) {
		[before, token] = [stack, to];
		window.scrollTo(0, 0);
		read();
	}

	function choose(runs, on) {
		for (const { id } of runs) on ? chosen.add(id) : chosen.delete(id);
		matching = false;
		draw();
	}

	function pick({ target, shiftKey }, run) {
		const [one, two] = [page.runs.indexOf(run), page.runs.findIndex(({ id }) => id === last)].sort((a, b) => a - b);
		choose(shiftKey && one >= 0 ? page.runs.slice(one, two + 1) : [run], target.checked);
		last = run.id;
	}

	function keys(event) {
		const row = event.target.closest("tr");
		if (event.key === "x" && !event.ctrlKey && !event.metaKey) row.querySelector("input").click();
		arrows(event, row, event.target.type ? "input" : "a");
	}

	const act = async action => {
		await actOnMany(action, matching ? { filter: filter(query) } : { ids: [...chosen] });
		read();
	};

	function clear() {
		chosen.clear();
		choose([]);
	}

	function row(run) {
		const { id, error, context, attempt } = run, href = `#/runs/${id}`, campaign = context?.campaignId;
		const why = error ? `${error.stepId ? `${error.stepId}: ` : ""}${error.message}` : run.waitingFor && `waits at ${run.waitingFor.map(({ stepId }) => stepId).join(", ")}`;
		return h("tr", { key: id, class: chosen.has(id) && "picked", onclick: ({ target }) => {
			if (!target.closest("a, input") && !getSelection().toString()) location.hash = href;
		} }, h("td.pick", h("input", { type: "checkbox", ariaLabel: `Select run ${shortId(id)}`, checked: chosen.has(id), onclick: event => pick(event, run) })),
		h("td.status", badge(statusOf(run)), attempt > 1 && h("span.soft", ` attempt ${attempt}`)), h("td.name", h("a", { href }, run.workflowName), why && h("span.why", { title: why }, why)), h("td.id", h("code", { title: id }, shortId(id))),
		campaigns && h("td.campaign", campaign && idLink("campaigns", campaign)), h("td.when", when(run.createdAt)), h("td.took", tookOf(run)));
	}

	const refresh = throttled(read, 600);
	every(1000, signal, () => page?.runs.some(({ status }) => status === "running") && draw());
	watchRuns(watch, { signal, onState: app.live, onChange: () => {
		refresh();
		onChange?.();
	} });

	return {
		get counts() { return page?.statusCounts; },
		draw,
		update(changed) {
			query = changed;
			clear();
			turn([], "");
		},
		describe() {
			if (!page) return h(".table", h(".state", problem ? alert(problem) : soft("Loading…")));
			const { runs, nextPageToken: next } = page, here = runs.filter(({ id }) => chosen.has(id)).length, first = before.length === 0;
			return h(".table", problem && alert(problem), runs.length === 0 ? h(".state", empty(query)) : h("table.runs",
				heads([h("input", { type: "checkbox", ariaLabel: "Select all of this page", checked: here === runs.length, indeterminate: here > 0 && here < runs.length, onclick: ({ target }) => choose(runs, target.checked) }),
					...["Status", "Workflow", "Run", campaigns && "Campaign", "Triggered", "Took"].filter(Boolean)]), h("tbody", { onkeydown: keys }, runs.map(row))),
			(!first || next) && h(".pager", button("Newest", () => turn([], ""), { disabled: first }), button("Newer", () => turn(before.slice(0, -1), before.at(-1)), { disabled: first }),
				button("Older", () => turn([...before, token], next), { disabled: !next }), h("span.soft", `Page ${before.length + 1}`)),
			chosen.size > 0 && h(".selection", { role: "region", ariaLabel: "Selected runs" }, h("b", matching ? "All that match" : `${chosen.size} selected`), button("Retry", () => act("retry")), button("Cancel", () => act("cancel"), "danger"),
				here === runs.length && (next || !first) && !matching && button("Select all that match", () => {
					matching = true;
					draw();
				}), button("Select none", clear, "quiet")));
		},
	};
}

// The runs of the tenant, or, with `id`, those of a campaign, whose counts are exact, under what has become of it.
export function runsView({ app, element, id, query: first, signal }) {
	const at = id ? `campaigns/${id}` : "runs", trigger = label => h("a.button.primary", { href: app.link("/trigger", { campaign: id }) }, label);
	let workflows = [], campaign;
	app.title(id ? `Campaign ${shortId(id)}` : "Runs");
	const table = runTable({ app, signal, query: first, watch: `${at}${id ? "/runs" : ""}/watch`, draw, campaigns: !id, onChange: () => id && readCampaign(), filter: query => ({
		status: query.getAll("status"), errorCode: query.get("error"), waiting: query.has("waiting") || null, workflowName: query.get("workflow"), campaignId: id ?? query.get("campaign"),
		createdAfter: query.get("since") && new Date(now() - query.get("since") * 60000).toISOString(),
	}), load: ({ campaignId, ...query }) => (id ? get(`${at}/runs`, signal, query) : get("runs", signal, { ...query, campaignId })),
	empty: ({ size }) => (size ? [h("h2", "No run matches"), h("a", { href: `#/${at}` }, "Show all runs")] : [h("h2", "No runs yet"), soft("They appear here as they are triggered."), trigger("Trigger the first")]) });

	function about() {
		const { latestRunId, bundleUrl, status, createdAt, updatedAt } = campaign ?? {};
		return [h(".heading", h("h1", "Campaign"), status && badge(status), copyable(id), trigger("Trigger a run")),
			campaign === null && soft("No campaign has this id. Runs may name it all the same, and update none."),
			campaign && [facts(["Created", when(createdAt)], ["Changed", when(updatedAt)], ["Latest finished run", latestRunId ? idLink("runs", latestRunId) : "none yet"]),
				h("section.panel", { ariaLabel: "Bundle" }, bundleUrl ? [h("h2", status === "live" ? "Live bundle" : "Last good bundle"), artifact({ id: new URL(bundleUrl).pathname.split("/").pop() }, true)] : soft("No bundle yet: a run that completes with one puts it here."))],
			h("h2", "Runs")];
	}

	function draw(query) {
		const chosen = query.getAll("status"), { waiting, error, workflow, campaign: only, since } = Object.fromEntries(query), none = { status: [], waiting: "", error: "" }, { counts } = table;
		const go = changes => app.go(`/${at}`, { status: chosen, waiting, error, workflow, campaign: only, since, ...changes });
		const of = STATUSES.map(each => chip(each, each, chosen.includes(each), () => go({ ...none, status: [...new Set(chosen).symmetricDifference(new Set([each]))] }), counts?.[each]));
		render(element, id ? about() : h(".heading", h("h1", "Runs"), trigger("Trigger a run")),
			h(".filters", chips("Status", chip("all", "All", !chosen.length && !waiting && !error, () => go(none), counts && Object.values(counts).reduce((sum, each) => sum + each)), of.slice(0, 2),
				!id && chip("waiting", "waiting", !!waiting, () => go({ ...none, waiting: waiting ? "" : "true" })), of.slice(2)),
			!id && [select("Workflow", "Any workflow", [...new Set([...workflows, workflow].filter(Boolean))], workflow, value => go({ workflow: value, campaign: "" })),
				select("Triggered", "Any time", SINCE, since, value => go({ since: value })), select("Error", "Any error, or none", ERRORS, error, value => go({ ...none, error: value }))],
			only && chip("close", `Campaign ${shortId(only)}`, true, () => go({ campaign: "" }))), table.describe());
	}

	const readCampaign = throttled(async () => {
		campaign = await get(at, signal).catch(error => (error.status === 404 ? null : campaign));
		if (!signal.aborted) table.draw();
	}, 600);
	if (id) readCampaign();
	else all("workflows", signal).then(found => {
		workflows = found.map(({ name }) => name);
		table.draw();
	}, () => undefined);
	table.update(first);
	return table.update;
}
