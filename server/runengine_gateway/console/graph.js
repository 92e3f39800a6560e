// Draws the graph of a workflow, with what a run has made of each node.

import { h, soft } from "./dom.js";
import { layOut } from "./layout.js";
import { duration } from "./words.js";

const WIDTH = 168, HEIGHT = 46, DOT = 14, MARGIN = 12;
const DOTS = ["__start__", "__end__"];
const LEAST_SCALE = 0.68; // below it the graph scrolls

// Map id of a node -> { status, step, times }.
function statesOf(steps, run) {
	const states = new Map();
	for (const step of steps) {
		const { stepId, status } = step, before = states.get(stepId), times = (before?.times ?? 0) + 1;
		// Of several at the same time, the one at work or failed says more than the last.
		const keeps = status === "completed" && ["running", "failed"].includes(before?.status);
		states.set(stepId, { status, step, ...(keeps && before), times });
	}
	for (const { stepId } of run.waitingFor ?? []) states.set(stepId, { ...states.get(stepId), status: "waiting" });
	return states;
}

// A graph within a node is that node: its steps are in the timeline.
function place({ nodes, edges }, upright) {
	const outer = (id) => id.split(":")[0], links = new Map();
	for (const { source, target, conditional } of edges) {
		const [from, to] = [outer(source), outer(target)], key = JSON.stringify([from, to]);
		if (from !== to || source === target) links.set(key, { source: from, target: to, conditional: conditional && (links.get(key)?.conditional ?? true) });
	}
	const turn = ({ x, y }) => (upright ? { x: y, y: x } : { x, y });
	const sized = [...new Set(nodes.map(({ id }) => outer(id)))].map((id) => {
		const { x: along, y: across } = DOTS.includes(id) ? { x: DOT, y: DOT } : turn({ x: WIDTH, y: HEIGHT });
		return { id, along, across };
	});
	const ways = [...links.values()], onItself = ({ source, target }) => source === target;
	const laid = layOut(sized, ways.filter((each) => !onItself(each)), upright ? 34 : 38, 14);
	const places = new Map([...laid.places].map(([id, node]) => [id, turn(node)]));
	const lines = laid.edges.map(({ edge, back, points }) => ({ ...edge, d: curve(points, edge, back, laid.places, turn) }));
	const loops = ways.filter(onItself).map((edge) => {
		const { x, y } = places.get(edge.source);
		return { ...edge, d: `M${x + 22} ${y - HEIGHT / 2}c0-17 34-17 34-3` };
	});
	return { places, lines: [...lines, ...loops], ...turn(laid) };
}

// From border to border, smooth through the points between. Two edges between the same nodes run side by side.
function curve(points, { source, target }, back, places, turn) {
	const all = points.map(({ x, y }) => ({ x, y: y + (back ? 9 : 0) })), way = back ? -1 : 1;
	all[0].x += way * places.get(source).along / 2;
	all.at(-1).x -= way * (places.get(target).along / 2 + 3);
	const text = (x, { y }) => Object.values(turn({ x, y })).map((each) => each.toFixed(1)).join(" ");
	return all.slice(1).reduce((path, to, index) => {
		const from = all[index], middle = (to.x + from.x) / 2;
		return `${path}C${text(middle, from)} ${text(middle, to)} ${text(to.x, to)}`;
	}, `M${text(all[0].x, all[0])}`);
}

// Returns `draw(state, upright)`; `onSelect(stepId)` is called for a node that is chosen.
export function graphOf(onSelect) {
	let placed, key;

	return ({ workflow, run, steps, selected }, upright) => {
		if (!workflow?.nodes.length) return soft(workflow?.note ?? "No worker has described the graph of this workflow.");
		if (key !== workflow.registeredAt + upright) [placed, key] = [place(workflow, upright), workflow.registeredAt + upright];
		const { places, lines, x, y } = placed, states = statesOf(steps, run), width = x + 2 * MARGIN, height = y + 2 * MARGIN + 8;
		const reached = (id) => (id === "__start__" ? steps.length > 0 : id === "__end__" ? run.status === "completed" : states.has(id));

		function node([id, at]) {
			if (DOTS.includes(id)) return h("g.dot", { key: id, class: reached(id) && "is-reached", transform: `translate(${at.x} ${at.y})` }, h("circle", { r: DOT / 2 - 1 }), h("circle.inner", { r: 2.5 }));
			const { status = "idle", step, times } = states.get(id) ?? {};
			const { cacheHit, durationMs, attempt } = step ?? {}, meta = [{ waiting: "waits", running: "running", pending: "due again", skipped: "skipped" }[status],
				cacheHit ? "from the cache" : duration(durationMs), attempt > 1 && `attempt ${attempt}`, times > 1 && `${times} times`].filter(Boolean).join(" · ");
			return h("g.node", {
				key: id, "data-node": id, class: `is-${status} ${id === selected ? "is-selected" : ""} ${cacheHit ? "is-cached" : ""}`, tabindex: 0, role: "button", ariaPressed: id === selected,
				ariaLabel: `${id}: ${status === "idle" ? "not reached" : status}${meta && `, ${meta}`}`, transform: `translate(${at.x - WIDTH / 2} ${at.y - HEIGHT / 2})`, onclick: () => onSelect(id),
				onkeydown: (event) => ["Enter", " "].includes(event.key) && (event.preventDefault(), onSelect(id)),
			}, h("title", id), h("rect", { width: WIDTH, height: HEIGHT, rx: 9 }), h("circle.mark", { cx: 17, cy: 17, r: 4.5 }), h("circle.ring", { cx: 17, cy: 17, r: 7.5 }),
			h("text", { x: 31, y: 21 }, id.length > 17 ? `${id.slice(0, 16)}…` : id), h("text.meta", { x: 31, y: 36 }, meta || status.replace("idle", "")));
		}

		return h("svg", {
			viewBox: `${-MARGIN} ${-MARGIN - 8} ${width} ${height}`, width, height, role: "group", ariaLabel: `Graph of ${workflow.name}`,
			style: { minWidth: `${width * LEAST_SCALE}px` },
		}, h("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, h("path", { d: "M1 1l6 3-6 3" })),
		lines.map(({ source, target, conditional, d }) => h("path.edge", { d, "marker-end": "url(#arrow)", class: `${conditional ? "is-conditional" : ""} ${reached(source) && reached(target) ? "is-taken" : ""}` })),
		[...places].map(node));
	};
}
