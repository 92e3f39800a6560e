// Draws the graph of a workflow, with what a run has made of each node.

import { fill, h, s } from "./dom.js";
import { layOut } from "./layout.js";
import { count, duration } from "./words.js";

const NODE = { width: 168, height: 46 };
const DOT = 14;
const EDGES = { __start__: "start", __end__: "end" };

// What the run has made of each node: Map node -> { status, step, executions }.
function statesOf(steps, run) {
  const states = new Map();
  for (const step of steps) {
    const before = states.get(step.stepId);
    const state = { status: step.status, step, executions: (before?.executions ?? 0) + 1 };
    // In a fan-out the one at work says more than the last.
    if (before && ["running", "failed"].includes(before.status) && step.status === "completed") Object.assign(state, { status: before.status, step: before.step });
    states.set(step.stepId, state);
  }
  for (const each of run.waitingFor ?? []) {
    const before = states.get(each.stepId);
    states.set(each.stepId, { executions: 0, ...before, status: "waiting" });
  }
  return states;
}

// The nodes and edges to draw: those of a graph within a node are that node, unless it is unfolded.
function visible(workflow, unfolded) {
  const ids = new Set(workflow.nodes.map((node) => node.id));
  const shownAs = (id) => {
    const parts = id.split(":");
    for (let length = 1; length < parts.length; length += 1) {
      const outer = parts.slice(0, length).join(":");
      if (!unfolded.has(outer) && ids.has(outer)) return outer;
    }
    return id;
  };
  const inner = new Map();
  const nodes = new Map();
  for (const node of workflow.nodes) {
    const as = shownAs(node.id);
    if (as !== node.id) inner.set(as, (inner.get(as) ?? 0) + 1);
    else nodes.set(node.id, node);
  }
  const edges = new Map();
  for (const edge of workflow.edges) {
    const [source, target] = [shownAs(edge.source), shownAs(edge.target)];
    if (source === target && (edge.source !== edge.target || source !== edge.source)) continue;
    const key = JSON.stringify([source, target]);
    const before = edges.get(key);
    edges.set(key, { source, target, conditional: edge.conditional && (before?.conditional ?? true) });
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()], inner };
}

// The element of the graph, and `draw({ workflow, run, steps, selected })`, which is cheap where little changed.
// `onSelect(stepId)` is called for a node that is chosen.
export function graphBox(onSelect) {
  const element = h("div", { class: "graph" });
  const unfolded = new Set();
  let last = null, drawn = null;

  const draw = (state) => {
    last = state;
    const { workflow } = state;
    if (!workflow?.nodes.length) {
      fill(element, workflow?.note ?? null, () => h("p", { class: "soft" }, workflow?.note ?? "The graph of this workflow is not known: no worker has described it."));
      drawn = null;
      return;
    }
    const upright = element.clientWidth < 560;
    const key = [workflow.name, workflow.registeredAt, upright, [...unfolded]];
    fill(element, key, () => (drawn = frame(workflow, upright)).svg);
    drawn?.update(state);
  };

  function frame(workflow, upright) {
    const { nodes, edges, inner } = visible(workflow, unfolded);
    const isDot = (id) => id in EDGES;
    const sized = nodes.map(({ id }) => {
      const [width, height] = isDot(id) ? [DOT, DOT] : [NODE.width, NODE.height];
      return upright ? { id, along: height, across: width } : { id, along: width, across: height };
    });
    const laid = layOut(sized, edges, { layerGap: upright ? 34 : 46, gap: upright ? 14 : 16 });
    const place = ({ along, across }) => (upright ? { x: across, y: along } : { x: along, y: across });
    const margin = 10;
    const [width, height] = upright ? [laid.across, laid.along] : [laid.along, laid.across];
    const svg = s("svg", {
      viewBox: `${-margin} ${-margin} ${width + 2 * margin} ${height + 2 * margin}`, width: width + 2 * margin, height: height + 2 * margin,
      role: "group", "aria-label": `Graph of ${workflow.name}, ${count(nodes.filter(({ id }) => !isDot(id)).length, "node")}`, onkeydown: move,
    }, s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, s("path", { d: "M1 1l6 3-6 3" }))));
    const lines = laid.edges.map(({ edge, back, points }) => {
      const element = s("path", { class: `edge ${edge.conditional ? "is-conditional" : ""}`, d: curve(points.map(place), edge, back, upright, isDot), "marker-end": "url(#arrow)" });
      svg.append(element);
      return { edge, element };
    });
    for (const edge of edges) if (edge.source === edge.target) svg.append(loop(place(laid.places.get(edge.source))));
    const boxes = nodes.map(({ id, skillId }) => {
      const at = place(laid.places.get(id));
      const element = isDot(id) ? dot(id, at) : box(id, skillId, at, inner.get(id));
      svg.append(element);
      return { id, at, element };
    });

    function move(event) {
      const here = boxes.find((each) => each.element === event.target);
      const towards = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!here || !towards) return;
      event.preventDefault();
      const distance = ({ at }) => {
        const [x, y] = [at.x - here.at.x, at.y - here.at.y];
        const forward = x * towards[0] + y * towards[1];
        return forward <= 1 ? Infinity : forward + 2 * Math.abs(x * towards[1] + y * towards[0]);
      };
      const best = boxes.filter((each) => !isDot(each.id)).sort((a, b) => distance(a) - distance(b))[0];
      if (distance(best) < Infinity) best.element.focus();
    }

    const update = ({ run, steps, selected }) => {
      const states = statesOf(steps, run);
      const reached = (id) => id === "__start__" ? steps.length > 0 : id === "__end__" ? run.status === "completed" : states.has(id);
      for (const { id, element } of boxes) {
        if (isDot(id)) element.classList.toggle("is-reached", reached(id));
        else describe(element, id, states.get(id), id === selected);
      }
      for (const { edge, element } of lines) element.classList.toggle("is-taken", reached(edge.source) && reached(edge.target));
    };
    return { svg, update };
  }

  function box(id, skillId, at, within) {
    const name = id.split(":").pop();
    const choose = () => onSelect(id);
    const element = s("g", {
      class: "node", tabindex: "0", role: "button", transform: `translate(${at.x - NODE.width / 2} ${at.y - NODE.height / 2})`, "data-focus": `node-${id}`, onclick: choose,
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose();
      },
    }, s("title", {}, skillId && skillId !== id ? `${id}, skill ${skillId}` : id),
    s("rect", { class: "body", width: NODE.width, height: NODE.height, rx: 9 }), s("circle", { class: "mark", cx: 17, cy: 17, r: 4.5 }), s("circle", { class: "ring", cx: 17, cy: 17, r: 7 }),
    s("text", { class: "label", x: 30, y: 21 }, name.length > 19 ? `${name.slice(0, 18)}…` : name), s("text", { class: "meta", x: 30, y: 36 }));
    if (within || unfolded.has(id)) {
      const toggle = (event) => {
        event.stopPropagation();
        if (!unfolded.delete(id)) unfolded.add(id);
        draw(last);
      };
      element.append(s("g", { class: "unfold", transform: `translate(${NODE.width - 20} 8)`, onclick: toggle, role: "presentation" },
        s("title", {}, within ? `${count(within, "node")} within: show` : "Hide what is within"), s("rect", { width: 14, height: 14, rx: 3 }), s("path", { d: within ? "M3.5 7h7M7 3.5v7" : "M3.5 7h7" })));
    }
    return element;
  }

  return { element, draw, redraw: () => last && draw(last) };
}

function describe(element, id, state, selected) {
  const status = state?.status ?? "idle";
  const meta = [
    status === "waiting" ? "waits" : status === "running" ? "running" : status === "pending" ? "waits for its next attempt" : status === "skipped" ? "skipped" : "",
    state?.step?.cacheHit ? "from the cache" : duration(state?.step?.durationMs),
    state?.step?.attempt > 1 && `attempt ${state.step.attempt}`,
    state?.executions > 1 && `${state.executions} times`,
  ].filter(Boolean).join(" · ");
  element.setAttribute("class", `node is-${status} ${selected ? "is-selected" : ""} ${state?.step?.cacheHit ? "is-cached" : ""}`);
  element.setAttribute("aria-pressed", String(selected));
  element.setAttribute("aria-label", `${id}: ${status === "idle" ? "not reached" : status}${meta ? `, ${meta}` : ""}`);
  element.querySelector(".meta").textContent = meta || (state ? status : "");
}

function dot(id, at) {
  return s("g", { class: `dot is-${EDGES[id]}`, transform: `translate(${at.x} ${at.y})` }, s("title", {}, EDGES[id]),
    s("circle", { r: DOT / 2 - 1 }), id === "__end__" && s("circle", { class: "inner", r: 2.5 }));
}

// From border to border, smooth through the points between. The two edges of a circle of two run side by side.
function curve(points, edge, back, upright, isDot) {
  const [axis, other] = upright ? ["y", "x"] : ["x", "y"];
  const half = (id) => (isDot(id) ? DOT / 2 : (upright ? NODE.height : NODE.width) / 2);
  const way = back ? -1 : 1;
  const all = points.map((each) => ({ ...each, [other]: each[other] + (back ? 9 : 0) }));
  all[0][axis] += way * (half(edge.source) + 1);
  all.at(-1)[axis] -= way * (half(edge.target) + 4);
  const at = (point) => `${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
  let path = `M${at(all[0])}`;
  for (let index = 1; index < all.length; index += 1) {
    const [from, to] = [all[index - 1], all[index]];
    const pull = (to[axis] - from[axis]) / 2;
    path += `C${at({ ...from, [axis]: from[axis] + pull })} ${at({ ...to, [axis]: to[axis] - pull })} ${at(to)}`;
  }
  return path;
}

const loop = ({ x, y }) => s("path", { class: "edge", d: `M${x + 20} ${y - NODE.height / 2}c0-18 34-18 34-2`, "marker-end": "url(#arrow)" });
