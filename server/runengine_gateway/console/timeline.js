// Draws the steps of a run as bars over time: the attempts of a step in one row, the steps within it folded under it.

import { arrows, fold, h, icon, soft } from "./dom.js";
import { duration, now } from "./words.js";

const CUT = 0.05; // the width of a pause, of the whole
const MOST = 400; // rows

// One execution of a step, in ms since 1970. One that is due takes no time: it may wait for days.
function barOf(step) {
	const changed = Date.parse(step.updatedAt), { status, durationMs } = step;
	return { step, from: changed - (durationMs ?? 0), to: status === "running" ? Math.max(now(), changed) : changed };
}

const lengthOf = spans => spans.reduce((sum, { from, to }) => sum + to - from, 0);

// Maps times to 0…1; pauses of more than a tenth of the busy time are cut short. Returns { at, length, cuts }.
function scaleOf(spans) {
	const pieces = [], busy = lengthOf(spans);
	for (const { from, to } of spans.toSorted((a, b) => a.from - b.from)) {
		const last = pieces.at(-1), pause = from - last?.to;
		if (pause <= Math.max(busy / 10, 200)) last.to = Math.max(last.to, to);
		else pieces.push({ from, to, pause });
	}
	const length = Math.max(1, lengthOf(pieces));
	const cut = Math.min(CUT, 0.3 / pieces.length), share = (1 - cut * (pieces.length - 1)) / length;
	let start = 0;
	for (const piece of pieces) {
		piece.start = start;
		start += (piece.to - piece.from) * share + cut;
	}
	const at = time => {
		const { from, start: left } = pieces.findLast(each => each.from <= time) ?? pieces[0];
		return Math.min(1, left + Math.max(0, time - from) * share);
	};
	return { at, length, cuts: pieces.slice(1).map(piece => ({ left: piece.start - cut, pause: piece.pause })) };
}

// Round times for the marks of an axis.
function marksOf(length) {
	const unit = 10 ** Math.max(0, Math.floor(Math.log10(length / 4))), step = [1, 2, 5, 10].map(each => each * unit).find(each => each >= length / 4);
	return Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
}

const percent = part => `${(part * 100).toFixed(2)}%`;

// Returns `draw`: `earlier` maps the id of a step to its attempts before the current one.
export function timelineOf(onSelect) {
	const unfolded = new Set();

	return ({ steps, earlier, chosen }, redraw) => {
		const within = Map.groupBy(steps, step => step.parentStepId);
		const rowsIn = (parent, depth) => (within.get(parent) ?? []).flatMap(step => [
			{ step, depth, count: within.get(step.id)?.length, bars: [...(earlier.get(step.id) ?? []), step].map(barOf) }, ...(unfolded.has(step.id) ? rowsIn(step.id, depth + 1) : [])]);
		const rows = rowsIn(null, 0);
		if (rows.length === 0) return soft("No step has begun.");
		const { at, length, cuts } = scaleOf(rows.flatMap(row => row.bars));

		function move(event) {
			const item = event.target.closest("li"), toggle = item.querySelector(".fold");
			arrows(event, item, ".row");
			if (toggle?.ariaExpanded === { ArrowRight: "false", ArrowLeft: "true" }[event.key]) toggle?.click();
		}

		function bar({ from, to, step: { attempt, status, cacheHit, durationMs } }) {
			const left = at(from);
			return h("span.bar", { class: `is-${status} ${cacheHit ? "is-cached" : ""}`, title: `attempt ${attempt}: ${status}${cacheHit ? ", from the cache" : ""} ${duration(durationMs)}`,
				style: { left: percent(left), width: `max(4px, ${percent(at(to) - left)})` } });
		}

		function row({ step, depth, count, bars }) {
			const { id, stepId, status } = step, took = step.cacheHit ? "cached" : status === "pending" ? "due" : duration(step.durationMs ?? (status === "running" ? now() - bars.at(-1).from : null));
			return h("li", { key: id }, count && fold(unfolded, id, "", redraw, { ariaLabel: `${count} steps within ${stepId}` }),
			h("button.row", { type: "button", ariaPressed: id === chosen, onclick: () => onSelect(step) },
				h("span.name", { class: `is-${status}`, style: { paddingInlineStart: `${depth * 14}px` } }, icon(status), h("span.words", stepId.split(":").pop()), h("span.hidden", ` ${status} `)), h("span.track", bars.map(bar)), h("span.took", took)));
		}

		return h(".timeline", h(".axis", { ariaHidden: true },
			cuts.length === 0 && marksOf(length).map(mark => h("span", { style: { left: percent(mark / length) } }, mark ? duration(mark) : "0")),
			cuts.map(({ left, pause }) => h("span.cut", { title: "Nothing ran meanwhile", style: { left: percent(left) } }, duration(pause)))),
		h("ol", { onkeydown: move }, rows.slice(0, MOST).map(row)), rows.length > MOST && soft(`The first ${MOST} of ${rows.length} steps.`));
	};
}
