// Draws the graph of a workflow, with what a run has made of each node. A graph within a node is a list in that node.

import { Graph, layout } from "./dagre.js";
import { button, fold, h, icon, soft } from "./dom.js";
import { duration } from "./words.js";

const WIDTH = 168, HEIGHT = 46, ROW = 26, DOT = 14, MARGIN = 20; // px
const DOTS = ["__start__", "__end__"];
const NARROW = 600; // the graph leads down then
const LEAST_ZOOM = 0.68; // below it the graph scrolls
const WORDS = { waiting: "waits", running: "running", pending: "due again", skipped: "skipped" };

const partsOf = id => id.split(":");

// Map id of a node -> { status, step, times }.
function statesOf(steps, run) {
	const states = new Map();
	for (const step of steps) {
		const { stepId, status } = step, before = states.get(stepId);
		// Of several at the same time, the one at work or failed says more than the last.
		const keeps = status === "completed" && ["running", "failed"].includes(before?.status);
		states.set(stepId, { status, step, ...(keeps && before), times: (before?.times ?? 0) + 1 });
	}
	for (const { stepId } of run.waitingFor ?? []) states.set(stepId, { ...states.get(stepId), status: "waiting" });
	return states;
}

// `heightOf(id)`: in px. Returns the graph with a place for each node, and the bends of each edge.
function place({ nodes, edges }, upright, heightOf) {
	const graph = new Graph(), outer = id => partsOf(id)[0];
	graph.setGraph({ rankdir: upright ? "TB" : "LR", ranksep: 36, nodesep: 14, edgesep: 4, marginx: MARGIN, marginy: MARGIN });
	for (const id of new Set(nodes.map(each => outer(each.id)))) graph.setNode(id, DOTS.includes(id) ? { width: DOT, height: DOT } : { width: WIDTH, height: heightOf(id) });
	// Of nodes side by side, dagre places that above whose edge came last.
	for (const { source, target, conditional } of edges.toReversed()) {
		const [from, to] = [outer(source), outer(target)];
		if (from !== to || source === target) graph.setEdge(from, to, { conditional: conditional && (graph.edge(from, to)?.conditional ?? true) });
	}
	layout(graph);
	return graph;
}

// From side to side, through the middles of the pieces between dagre's points, towards which each curve bends.
function curve(graph, edge, upright) {
	const { points: given } = graph.edge(edge), [from, to] = [graph.node(edge.v), graph.node(edge.w)];
	if (from === to) return `M${from.x - 60} ${from.y - from.height / 2}c0-17 34-17 34-3`;
	const side = ({ x, y, width, height }, way) => (upright ? { x, y: y + way * height / 2 } : { x: x + way * width / 2, y });
	// Those that lead back keep dagre's ends, above the nodes or below.
	const points = (upright ? from.y > to.y : from.x > to.x) ? given : [side(from, 1), ...given.slice(1, -1), side(to, -1)];
	const bends = points.slice(1, -1).map(({ x, y }, index) => {
		const next = points[index + 2], share = index === points.length - 3 ? 1 : 0.5;
		return `Q${x} ${y} ${x + share * (next.x - x)} ${y + share * (next.y - y)}`;
	});
	return `M${points[0].x} ${points[0].y}${bends.join("")}`;
}

// Returns `draw(state, room, redraw)` with the width that there is; `onSelect(stepId)` is called for a node that is chosen.
export function graphOf(onSelect) {
	const unfolded = new Set();
	let graph, drawn;

	return ({ workflow, run, steps, selected }, room, redraw) => {
		if (!workflow?.nodes.length) return soft(workflow?.note ?? "No worker has described the graph of this workflow.");
		const upright = room < NARROW, states = statesOf(steps, run), known = new Set([...workflow.nodes.flatMap(({ id }) => partsOf(id).map((_, index, all) => all.slice(0, index + 1).join(":"))), ...states.keys()]);
		const within = Map.groupBy([...known].filter(id => id.includes(":") && !DOTS.includes(partsOf(id).at(-1))), id => partsOf(id)[0]);
		const rowsOf = id => (within.has(id) ? 1 + (unfolded.has(id) && within.get(id).length) : 0), wanted = JSON.stringify([workflow.registeredAt, upright, [...within.keys()].map(rowsOf)]);
		if (drawn !== wanted) [graph, drawn] = [place(workflow, upright, id => HEIGHT + ROW * rowsOf(id)), wanted];
		const { width, height } = graph.graph(), reached = id => (id === DOTS[0] ? steps.length > 0 : id === DOTS[1] ? run.status === "completed" : states.has(id));

		function node(id) {
			const { status = "idle", step: { cacheHit, durationMs, attempt } = {}, times } = states.get(id) ?? {}, [name, ...above] = partsOf(id).reverse();
			const about = [WORDS[status], cacheHit ? "from the cache" : duration(durationMs), attempt > 1 && `attempt ${attempt}`, times > 1 && `${times} times`].filter(Boolean).join(" · ");
			return button([icon(status), h("span.words", name), h("span.words.soft", about)], () => onSelect(id), { key: id, "data-node": id, class: `node is-${status}`, title: id, style: { paddingInlineStart: `${10 + 8 * above.length}px` },
				ariaPressed: id === selected, ariaLabel: `${id}: ${status === "idle" ? "not reached" : status}${about && `, ${about}`}` });
		}

		function spot(id) {
			const { x, y, width: wide, height: high } = graph.node(id), inner = within.get(id), props = { key: id, style: { left: `${x - wide / 2}px`, top: `${y - high / 2}px`, width: `${wide}px`, height: `${high}px` } };
			if (DOTS.includes(id)) return h(".dot", { ...props, class: reached(id) && "is-reached" });
			return h(".spot", { ...props, class: `is-${states.get(id)?.status ?? "idle"}` }, node(id), inner && fold(unfolded, id, `${inner.filter(each => states.get(each)?.status === "completed").length} of ${inner.length} steps`, redraw, { title: `Steps within ${id}` }),
				unfolded.has(id) && inner.map(node));
		}

		return h(".drawing", { role: "group", ariaLabel: `Graph of ${workflow.name}`, style: { width: `${width}px`, height: `${height}px`, zoom: Math.min(1, Math.max(LEAST_ZOOM, room / width)) } },
			h("svg", { width, height, ariaHidden: true }, h("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, h("path", { d: "M1 1l6 3-6 3" })),
				graph.edges().map(edge => h("path.edge", { d: curve(graph, edge, upright), "marker-end": "url(#arrow)", class: `${graph.edge(edge).conditional ? "is-conditional" : ""} ${reached(edge.v) && reached(edge.w) ? "is-taken" : ""}` }))),
			graph.nodes().map(spot));
	};
}
