// A small virtual DOM: `h` describes elements, `render` makes the page so. Text goes in as text: nothing parses markup.

const HTML = "http://www.w3.org/1999/xhtml", SVG = "http://www.w3.org/2000/svg";

// h("a.button", { href, onclick }, "text", [more]), or h(".heading") for a div: props may be left out, children absent. `key` keeps an element wherever it
// goes; `ref(element)` is called when it has been made; the children of one with `own` are not described here.
export function h(name, props, ...children) {
	if (props?.constructor !== Object || props.tag) return h(name, {}, props, ...children);
	const [tag, ...classes] = name.split(".");
	return { tag: tag || "div", props: { ...props, class: [...classes, props.class].filter(Boolean).join(" ") || null }, children };
}

const described = new WeakMap(); // the props of each element

// Makes the children of `parent` as described. What is so already is left alone, with its focus, place and input.
export function render(parent, ...children) {
	const byKey = new Map(), free = [];
	for (const node of parent.childNodes) {
		const key = described.get(node)?.key;
		key === undefined ? free.push(node) : byKey.set(key, node);
	}
	const nodes = children.flat(Infinity).filter(each => each || each === 0).map(each => {
		const key = each.props?.key, tag = each.tag ?? "#text";
		let node = byKey.get(key);
		const at = key === undefined ? free.findIndex(one => one.nodeName.toLowerCase() === tag) : -1;
		if (at >= 0) node = free.splice(0, at + 1).pop();
		node ??= each.tag ? document.createElementNS(tag === "svg" || parent.namespaceURI === SVG ? SVG : HTML, tag) : new Text();
		if (each.tag) update(node, each);
		else if (node.data !== String(each)) node.data = each;
		return node;
	});
	for (const node of new Set(parent.childNodes).difference(new Set(nodes))) node.remove();
	let place = parent.firstChild;
	// Moved only when it is elsewhere: moving takes the focus away.
	for (const node of nodes) node === place ? (place = place.nextSibling) : parent.insertBefore(node, place);
}

function update(node, { props, children }) {
	const before = described.get(node), old = before ?? {};
	described.set(node, props);
	if (!props.own) render(node, children);
	for (const name in { ...old, ...props }) {
		const value = props[name];
		if (value === old[name] || ["key", "ref", "own"].includes(name)) continue;
		// A handler that returned false would keep the browser from what it does.
		if (name.startsWith("on")) node[name] = value && (event => void value(event));
		else if (/^(aria[A-Z].*|value|checked|indeterminate|disabled)$/.test(name)) node[name] = value ?? null;
		else if (name === "style") Object.assign(node.style, value);
		else if (value === false || value == null) node.removeAttribute(name);
		else node.setAttribute(name, value === true ? "" : value);
	}
	if (!before) props.ref?.(node);
}

// Made once for its key, from what `load` returns.
export const later = (key, load, make) => h("div", { key, own: true, ref: async element => {
	render(element, soft("Loading…"));
	try {
		render(element, await make(await load()));
	} catch (error) {
		render(element, soft(error.message));
	}
} });

// A modal dialog, in which `make(close, redraw)` says what is. Returns when it has been closed; Escape closes no firm one.
export function dialog(make, firm) {
	const element = document.body.appendChild(document.createElement("dialog"));
	const redraw = () => render(element, make(() => element.close(), redraw));
	redraw();
	element.oncancel = event => firm && event.preventDefault();
	element.showModal();
	return new Promise(resolve => { element.onclose = resolve; }).then(() => element.remove());
}

export const soft = (...text) => h("p.soft", ...text);

export const alert = text => h("p.wrong", { role: "alert" }, text);

// `props` may be a class alone.
export const button = (label, onclick, props) => h("button", { type: "button", onclick, ...(props?.constructor === String ? { class: props } : props) }, label);

// It does nothing more until `act` has ended. Not `disabled`, which would lose the focus.
export const acting = (label, act, props) => button(label, async ({ currentTarget: element }) => {
	if (element.ariaDisabled) return;
	element.ariaDisabled = "true";
	await act().finally(() => { element.ariaDisabled = null; });
}, props);

const RING = "M8 3.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9", TICK = "m3.5 8.5 3 3 6-7", CROSS = "m4.5 4.5 7 7m0-7-7 7", DASH = "M4 8h8";
const PATHS = {
	queued: RING, pending: RING, draft: RING, idle: RING, running: "M8 2.5a5.5 5.5 0 1 0 5.5 5.5", waiting: "M6 4v8M10 4v8", completed: TICK, live: TICK,
	failed: CROSS, close: CROSS, cancelled: DASH, skipped: DASH, copy: "M6 6h7v7H6zM3 10V3h7", fold: "m6 4 4 4-4 4",
};

// Beside words: a screen reader hears these alone.
export const icon = name => h(`svg.icon.icon-${name}`, { viewBox: "0 0 16 16", ariaHidden: true }, h("path", { d: PATHS[name] }));

export const badge = status => h(`span.badge.is-${status}`, icon(status), status);

// Options of a <select>: values, or pairs of a value and its text.
export const options = list => list.map(each => {
	const [value, text = value] = [each].flat();
	return h("option", { key: value, value }, text);
});

export const chip = (id, text, pressed, onclick, count) => button([PATHS[id] && icon(id), text, count !== undefined && h("span.count", count.toLocaleString())],
	onclick, { key: id, class: `chip is-${id}`, ariaPressed: pressed });

export const chips = (label, ...all) => h(".chips", { role: "group", ariaLabel: label }, all);

export const heads = names => h("thead", h("tr", names.map(each => h("th", { scope: "col" }, each))));

export const facts = (...pairs) => h("dl.facts", pairs.filter(Boolean).map(([name, value]) => h("div", h("dt", name), h("dd", value))));

export const field = (id, label, input, about) => h(".field", { key: id }, h("label", { for: id }, label),
	{ ...input, props: { id, spellcheck: "false", "aria-describedby": about && `${id}-about`, ...input.props } }, about && h("p.soft", { id: `${id}-about` }, about));

export const idLink = (kind, id) => h("a", { href: `#/${kind}/${id}` }, h("code", shortId(id)));

// Its end is in what ids of the same minute differ.
export const shortId = id => id.slice(-8);

// Folds what is within `id`, or unfolds it.
export const fold = (unfolded, id, label, redraw, props) => button([icon("fold"), label], () => {
	if (!unfolded.delete(id)) unfolded.add(id);
	redraw();
}, { class: "fold", ariaExpanded: unfolded.has(id), ...props });

// Moves the focus to `selector` in the item before or after, by the arrow keys.
export function arrows(event, item, selector) {
	const next = { ArrowDown: item.nextElementSibling, ArrowUp: item.previousElementSibling }[event.key];
	if (next) event.preventDefault();
	next?.querySelector(selector).focus();
}

export const copyable = (text, label = text) => button([h("code", label), icon("copy")], ({ currentTarget: { classList } }) => {
	navigator.clipboard?.writeText(text);
	classList.add("done");
	setTimeout(() => classList.remove("done"), 1200);
}, { class: "copy", ariaLabel: `Copy ${label}` });

export function json(value) {
	const text = JSON.stringify(value, null, 2);
	return h(".json", h("pre", { tabindex: 0 }, text), copyable(text, "JSON"));
}
