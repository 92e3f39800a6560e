// Draws the steps of a run as bars over time: those of parallel branches above one another, the attempts of a step in
// one row, the steps of a graph within a step folded under it. Long times in which nothing ran are cut short.

import { fill, h, icon, keyed } from "./dom.js";
import { duration, now } from "./words.js";

const CUT = 0.04; // the width of a pause that is cut short, of the whole
const MAX_ROWS = 500;

// What one execution of a step took, as { from, to, status, attempt, cacheHit }, in ms since 1970.
function barOf(step) {
  const changed = Date.parse(step.updatedAt);
  const ended = !["running", "pending"].includes(step.status);
  const to = ended ? changed : now();
  const from = step.status === "running" ? changed : ended && step.durationMs !== null ? changed - step.durationMs : Date.parse(step.createdAt);
  return { from: Math.min(from, to), to, step };
}

// Rows in the order of execution, each step before those within it, with their depth.
function rowsOf(steps, earlier, unfolded) {
  const children = new Map();
  for (const step of steps) {
    const parent = step.parentStepId ?? "";
    children.set(parent, [...(children.get(parent) ?? []), step]);
  }
  const rows = [];
  const add = (parent, depth) => {
    for (const step of children.get(parent) ?? []) {
      const within = children.get(step.id)?.length ?? 0;
      const bars = [...(earlier.get(step.id) ?? []), step].map(barOf);
      rows.push({ step, depth, within, open: unfolded.has(step.id), bars });
      if (unfolded.has(step.id)) add(step.id, depth + 1);
    }
  };
  add("", 0);
  return rows;
}

// Maps a time to 0…1, with pauses longer than a tenth of the busy time cut short. Returns { at, cuts, busy }.
export function scaleOf(spans, { minimum = 20 } = {}) {
  const sorted = [...spans].sort((a, b) => a.from - b.from);
  const merged = [];
  for (const { from, to } of sorted) {
    if (merged.length && from <= merged.at(-1).to) merged.at(-1).to = Math.max(merged.at(-1).to, to);
    else merged.push({ from, to });
  }
  const busy = Math.max(minimum, merged.reduce((sum, each) => sum + each.to - each.from, 0));
  const pieces = [];
  for (const span of merged) {
    const pause = pieces.length ? span.from - pieces.at(-1).to : 0;
    if (pieces.length && pause <= Math.max(busy / 10, 50)) pieces.at(-1).to = span.to;
    else pieces.push({ ...span, pause });
  }
  const cuts = Math.min(CUT, 0.3 / pieces.length) * (pieces.length - 1);
  const length = Math.max(minimum, pieces.reduce((sum, each) => sum + each.to - each.from, 0));
  let offset = 0;
  for (const piece of pieces) {
    piece.start = offset;
    piece.width = (1 - cuts) * (piece.to - piece.from) / length;
    offset += piece.width + (pieces.length > 1 ? cuts / (pieces.length - 1) : 0);
  }
  const at = (time) => {
    const piece = pieces.find((each) => time <= each.to) ?? pieces.at(-1);
    const part = (time - piece.from) / Math.max(1, piece.to - piece.from);
    return Math.max(0, Math.min(1, piece.start + piece.width * Math.max(0, part)));
  };
  return { at, length, pieces };
}

// Round times for the marks of an axis of so many ms.
function marksOf(length) {
  const raw = length / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= raw);
  return Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
}

// The element of the timeline, and `draw({ steps, earlier, selected })`: `earlier` maps the id of a step to its earlier
// attempts. `onSelect(step)` is called for a step that is chosen.
export function timelineBox(onSelect) {
  const axis = h("div", { class: "axis", "aria-hidden": "true" });
  const rows = h("ol", { class: "rows", onkeydown: move });
  const note = h("p", { class: "soft" });
  const element = h("div", { class: "timeline" }, axis, rows, note);
  const unfolded = new Set();
  let last = null;

  function move(event) {
    const row = event.target.closest("li");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (next === undefined && !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    if (next) next.querySelector(".row").focus();
    else if (row.querySelector(".fold") && (event.key === "ArrowRight") !== unfolded.has(row.dataset.id)) toggle(row.dataset.id);
  }

  function toggle(id) {
    if (!unfolded.delete(id)) unfolded.add(id);
    draw(last);
  }

  function make({ step }) {
    return h("li", {},
      h("button", { type: "button", class: "row", onclick: () => onSelect(last.steps.find((each) => each.id === step.id)) },
        h("span", { class: "name" }), h("span", { class: "track" }), h("span", { class: "took" })));
  }

  function update(scale, selected) {
    return (item, { step, depth, within, open, bars }) => {
      const row = item.querySelector(".row");
      row.classList.toggle("is-selected", step.id === selected);
      row.setAttribute("aria-pressed", String(step.id === selected));
      fill(row.querySelector(".name"), [step.stepId, step.status, depth], () => {
        const name = h("span", { class: "indented" }, icon(step.status), h("span", { class: "words" }, step.stepId.split(":").pop()), h("span", { class: "hidden" }, `, ${step.status}`));
        name.style.paddingInlineStart = `${depth * 14}px`;
        return name;
      });
      const fold = item.querySelector(".fold");
      if (within && !fold) {
        item.prepend(h("button", { type: "button", class: "fold", onclick: () => toggle(step.id) }, icon("fold")));
      }
      if (within) {
        item.querySelector(".fold").setAttribute("aria-expanded", String(open));
        item.querySelector(".fold").setAttribute("aria-label", `${within} steps within ${step.stepId}`);
      }
      const track = row.querySelector(".track");
      keyed(track, bars, ({ step: each }) => String(each.attempt), () => h("span", {}), (bar, each) => {
        const start = scale.at(each.from);
        bar.className = `bar is-${each.step.status} ${each.step.cacheHit ? "is-cached" : ""}`;
        bar.title = `attempt ${each.step.attempt}: ${each.step.status}${each.step.cacheHit ? ", from the cache" : ""} ${duration(each.step.durationMs)}`;
        bar.style.left = `${(start * 100).toFixed(3)}%`;
        bar.style.width = `max(4px, ${((scale.at(each.to) - start) * 100).toFixed(3)}%)`;
      });
      row.querySelector(".took").textContent = step.cacheHit ? "cached" : step.status === "pending" ? "due" : duration(step.durationMs ?? (step.status === "running" ? now() - bars.at(-1).from : null));
    };
  }

  function draw(state) {
    last = state;
    const all = rowsOf(state.steps, state.earlier, unfolded);
    const shown = all.slice(0, MAX_ROWS);
    element.hidden = all.length === 0;
    note.textContent = all.length > shown.length ? `The first ${MAX_ROWS} of ${all.length} steps.` : "";
    if (all.length === 0) return;
    const scale = scaleOf(all.flatMap((row) => row.bars));
    keyed(rows, shown, (row) => row.step.id, make, update(scale, state.selected));
    fill(axis, [Math.round(scale.length / 50), scale.pieces.length], () => [
      scale.pieces.length === 1 && marksOf(scale.length).map((mark) => {
        const tick = h("span", { class: "tick" }, mark === 0 ? "0" : duration(mark));
        tick.style.left = `${(mark / scale.length) * 100}%`;
        return tick;
      }),
      scale.pieces.slice(1).map((piece) => {
        const cut = h("span", { class: "cut", title: `${duration(piece.pause)} in which nothing ran` }, duration(piece.pause));
        cut.style.left = `${(piece.start - CUT / 2) * 100}%`;
        return cut;
      })]);
  }

  return { element, draw, tick: () => last?.steps.some((step) => step.status === "running") && draw(last) };
}
