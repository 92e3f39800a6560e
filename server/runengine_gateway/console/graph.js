// Draws the graph of a workflow, with what a run has made of each node. A graph within a node is a list in that node.

import { Graph, layout } from "./dagre.js";
import { button, h, icon, soft } from "./dom.js";
import { duration } from "./words.js";

const WIDTH = 168, HEIGHT = 46, ROW = 26, DOT = 14, MARGIN = 20; // px
const DOTS = ["__start__", "__end__"];
const NARROW = 600; // the graph leads down then
const LEAST_ZOOM = 0.68; // below it the graph scrolls
const WORDS = { waiting: "waits", running: "running", pending: "due again", skipped: "skipped" };

const partsOf = (id) => id.split(":");

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

// `heightOf(id)`: in px. Returns the graph with a place for each node, and the bends of each edge.
function place({ nodes, edges }, upright, heightOf) {
	const graph = new Graph(), outer = (id) => partsOf(id)[0];
	graph.setGraph({ rankdir: upright ? "TB" : "LR", ranksep: 36, nodesep: 14, marginx: MARGIN, marginy: MARGIN });
	for (const id of new Set(nodes.map((each) => outer(each.id)))) graph.setNode(id, DOTS.includes(id) ? { width: DOT, height: DOT } : { width: WIDTH, height: heightOf(id) });
	// Of nodes side by side, dagre places that above whose edge came last.
	for (const { source, target, conditional } of edges.toReversed()) {
		const [from, to] = [outer(source), outer(target)];
		if (from !== to || source === target) graph.setEdge(from, to, { conditional: conditional && (graph.edge(from, to)?.conditional ?? true) });
	}
	layout(graph);
	return graph;
}

// From side to side, smooth through the bends between. Two edges between the same nodes run side by side.
function curve(graph, edge, upright) {
	const [from, to] = [graph.node(edge.v), graph.node(edge.w)], turn = (x, y) => (upright ? [y, x] : [x, y]), at = ({ x, y }) => turn(x, y);
	if (from === to) return `M${from.x - 60} ${from.y - from.height / 2}c0-17 34-17 34-3`;
	const back = at(from)[0] > at(to)[0], out = (back ? -1 : 1) / 2;
	const side = (node, way) => [at(node)[0] + way * turn(node.width, node.height)[0], at(node)[1] + (back ? 9 : 0)];
	const { points } = graph.edge(edge), bends = points.length > 3 ? points.slice(1, -1).map(at) : []; // one alone is between two layers
	const [first, ...others] = [side(from, out), ...bends, side(to, -out)], text = (x, y) => turn(x, y).map((each) => each.toFixed(1)).join(" ");
	others.at(-1)[0] -= 6 * out; // for the point of the arrow
	return others.reduce(([path, [x, y]], next) => [`${path}C${text((x + next[0]) / 2, y)} ${text((x + next[0]) / 2, next[1])} ${text(...next)}`, next], [`M${text(...first)}`, first])[0];
}

// Returns `draw(state, room, redraw)` with the width that there is; `onSelect(stepId)` is called for a node that is chosen.
export function graphOf(onSelect) {
	const unfolded = new Set();
	let graph, drawn;

	return ({ workflow, run, steps, selected }, room, redraw) => {
		if (!workflow?.nodes.length) return soft(workflow?.note ?? "No worker has described the graph of this workflow.");
		const upright = room < NARROW, states = statesOf(steps, run), known = new Set([...workflow.nodes.flatMap(({ id }) => partsOf(id).map((_, index, all) => all.slice(0, index + 1).join(":"))), ...states.keys()]);
		const within = Map.groupBy([...known].filter((id) => id.includes(":") && !DOTS.includes(partsOf(id).at(-1))), (id) => partsOf(id)[0]);
		const rowsOf = (id) => (within.has(id) ? 1 + (unfolded.has(id) && within.get(id).length) : 0), wanted = JSON.stringify([workflow.registeredAt, upright, [...within.keys()].map(rowsOf)]);
		if (drawn !== wanted) [graph, drawn] = [place(workflow, upright, (id) => HEIGHT + ROW * rowsOf(id)), wanted];
		const { width, height } = graph.graph(), reached = (id) => (id === DOTS[0] ? steps.length > 0 : id === DOTS[1] ? run.status === "completed" : states.has(id));

		function node(id) {
			const { status = "idle", step: { cacheHit, durationMs, attempt } = {}, times } = states.get(id) ?? {}, [name, ...above] = partsOf(id).reverse();
			const about = [WORDS[status], cacheHit ? "from the cache" : duration(durationMs), attempt > 1 && `attempt ${attempt}`, times > 1 && `${times} times`].filter(Boolean).join(" · ");
			return button([icon(status), h("span.words", name), h("span.words.soft", about)], () => onSelect(id), { key: id, "data-node": id, class: `node is-${status}`, title: id, style: { paddingInlineStart: `${10 + 8 * above.length}px` },
				ariaPressed: id === selected, ariaLabel: `${id}: ${status === "idle" ? "not reached" : status}${about && `, ${about}`}` });
		}

		function spot(id) {
			const { x, y, width: wide, height: high } = graph.node(id), inner = within.get(id), opened = unfolded.has(id), props = { key: id, style: { left: `${x - wide / 2}px`, top: `${y - high / 2}px`, width: `${wide}px`, height: `${high}px` } };
			if (DOTS.includes(id)) return h("div.dot", { ...props, class: reached(id) && "is-reached" });
			return h("div.spot", { ...props, class: `is-${states.get(id)?.status ?? "idle"}` }, node(id), inner && button([icon("fold"), `${inner.filter((each) => states.get(each)?.status === "completed").length} of ${inner.length} steps`], () => {
				if (!unfolded.delete(id)) unfolded.add(id);
				redraw();
			}, { class: "fold", ariaExpanded: opened, title: `Steps within ${id}` }), opened && inner.map(node));
		}

		return h("div.drawing", { role: "group", ariaLabel: `Graph of ${workflow.name}`, style: { width: `${width}px`, height: `${height}px`, zoom: Math.min(1, Math.max(LEAST_ZOOM, room / width)) } },
			h("svg", { width, height, ariaHidden: true }, h("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, h("path", { d: "M1 1l6 3-6 3" })),
				graph.edges().map((edge) => h("path.edge", { d: curve(graph, edge, upright), "marker-end": "url(#arrow)", class: `${graph.edge(edge).conditional ? "is-conditional" : ""} ${reached(edge.v) && reached(edge.w) ? "is-taken" : ""}` }))),
			graph.nodes().map(spot));
	};
}
