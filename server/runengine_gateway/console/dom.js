// Makes elements. Text always goes in as text: nothing here, or anywhere in the console, parses markup.

const SVG = "http://www.w3.org/2000/svg";

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string" && !(element instanceof SVGElement)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

// An HTML element: `h("a.button", { href, onclick }, "text", child, [more])`. Absent props and children are left out;
// where there are no props, the first child may stand in their place.
export function h(name, props, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  const isProps = props?.constructor === Object;
  return build(element, isProps ? props : {}, isProps ? children : [props, ...children]);
}

// An SVG element.
export const s = (tag, props, ...children) => build(document.createElementNS(SVG, tag), props, children);

const shown = new WeakMap();

// Replaces the content of `element` by what `make` returns, unless `key` is the one it was made for. The focus stays
// on the element with the same `data-focus`.
export function fill(element, key, make) {
  const text = JSON.stringify(key);
  if (shown.get(element) === text) return;
  shown.set(element, text);
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  element.replaceChildren(...[make()].flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  if (focused !== undefined) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

// Keeps the children of `parent` in the order of `items`, each made once for its id and updated when it changes.
export function keyed(parent, items, idOf, make, update) {
  const existing = new Map([...parent.children].map((each) => [each.dataset.id, each]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = idOf(item);
    let element = existing.get(id);
    existing.delete(id);
    if (!element) {
      element = make(item);
      element.dataset.id = id;
    }
    update(element, item);
    // Moved only when it is elsewhere: moving takes the focus away.
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of existing.values()) element.remove();
}

const PATHS = {
  queued: "M8 3.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9",
  pending: "M8 3.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9",
  running: "M8 2.5a5.5 5.5 0 1 0 5.5 5.5",
  waiting: "M6 4v8M10 4v8",
  completed: "m3.5 8.5 3 3 6-7",
  failed: "m4.5 4.5 7 7m0-7-7 7",
  cancelled: "M4 8h8",
  skipped: "M4 8h8",
  live: "m3.5 8.5 3 3 6-7",
  draft: "M8 3.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9",
  copy: "M6 6h7v7H6zM3 10V3h7",
  close: "m4 4 8 8m0-8-8 8",
  fold: "m5 6.5 3 3 3-3",
  link: "m6 4 4 4-4 4",
};

// A picture of 16 × 16 that says nothing to a screen reader: words are beside it.
export const icon = (name) =>
  s("svg", { class: `icon icon-${name}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: PATHS[name] }));

// A status as a word with its mark: never by colour alone.
export const badge = (status) => h("span", { class: `badge is-${status}` }, icon(status), status);

export const button = (label, onclick, props) => h("button", { type: "button", onclick, ...props }, label);

// A button that is busy until `act`, which may fail, has ended.
export function acting(label, act, props) {
  const element = button(label, async () => {
    if (element.getAttribute("aria-disabled")) return;
    // Not `disabled`, which would lose the focus.
    element.setAttribute("aria-disabled", "true");
    try {
      await act();
    } finally {
      element.removeAttribute("aria-disabled");
    }
  }, props);
  return element;
}

// An id to copy.
export function copyable(text, label = text) {
  const element = button([h("code", {}, label), icon("copy")], async () => {
    await navigator.clipboard?.writeText(text).catch(() => undefined);
    element.classList.add("done");
    setTimeout(() => element.classList.remove("done"), 1200);
  }, { class: "copy", title: `Copy ${text}`, "aria-label": `Copy ${text}` });
  return element;
}

// A JSON value as a tree whose objects fold; long lists show their first hundred members.
export function json(value, depth = 0) {
  if (value === null || typeof value !== "object") {
    const kind = value === null ? "null" : typeof value;
    return h("span", { class: `json-${kind}` }, JSON.stringify(value));
  }
  const entries = Array.isArray(value) ? value.map((each, index) => [index, each]) : Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (entries.length === 0) return h("span", {}, open + close);
  const list = h("ul", {});
  const show = (count) => {
    list.replaceChildren(...entries.slice(0, count).map(([name, each]) => h("li", {},
      !Array.isArray(value) && [h("span", { class: "json-name" }, name), ": "], json(each, depth + 1))));
    if (entries.length > count) {
      list.append(h("li", {}, button(`${entries.length - count} more`, () => show(count + 1000), { class: "quiet" })));
    }
  };
  const details = h("details", { open: depth < 2 }, h("summary", {}, `${open}${entries.length}${close}`), list);
  // Made when it is opened: a payload may have 256 KiB.
  if (depth < 2) show(100);
  else details.addEventListener("toggle", () => show(100), { once: true });
  return details;
}

// The JSON of something in a box, with a button that copies it.
export const jsonBox = (value) =>
  h("div", { class: "json", tabindex: "0", role: "group", "aria-label": "JSON" },
    copyable(JSON.stringify(value, null, 2), "JSON"), json(value));
