// Artifacts, to look at and to save.
//
// An artifact's HTML is written into preview.html, which is of no origin: it can neither read the API nor run a script.
// Pictures, SVG too, are <img>, in which nothing runs. Nothing is ever opened as a page of its own.

import { request } from "./api.js";
import { acting, fill, h, icon, jsonBox } from "./dom.js";
import { size as sizeText } from "./words.js";
import { readZip } from "./zip.js";

const MAX_PREVIEW = 16 * 1024 * 1024;
const MAX_TEXT = 512 * 1024;
const BY_ENDING = { html: "text/html", htm: "text/html", json: "application/json", svg: "image/svg+xml", txt: "text/plain", md: "text/markdown", csv: "text/csv", png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", css: "text/css", js: "text/javascript", zip: "application/zip" };
const PICTURES = ["image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"];

async function fetchArtifact(id, signal) {
  const response = await request("GET", `artifacts/${id}`, { signal });
  const named = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("content-disposition") ?? "");
  return { blob: await response.blob(), type: response.headers.get("content-type") ?? "", name: named ? decodeURIComponent(named[1]) : id };
}

function save(blob, name) {
  // The type is left out: a browser that opened the file from here would take it for bytes.
  const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// The content of a file as an element. `type` is its media type, perhaps with parameters.
async function preview(blob, type, name, signal) {
  const plain = type.split(";")[0].trim().toLowerCase();
  if (blob.size > MAX_PREVIEW) return h("p", { class: "soft" }, "Too large to show here.");
  if (PICTURES.includes(plain)) {
    const url = URL.createObjectURL(new Blob([blob], { type: plain }));
    signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    return h("img", { class: "picture", src: url, alt: name });
  }
  if (plain === "text/html" || plain === "application/xhtml+xml") return page(await blob.text(), name);
  if (plain === "application/zip") return archive(blob, signal);
  if (plain === "application/json" || plain.endsWith("+json")) {
    const text = await blob.text();
    if (text.length <= MAX_TEXT) {
      try {
        return jsonBox(JSON.parse(text));
      } catch { /* It says so and is not: as text, then. */ }
    }
  }
  if (plain.startsWith("text/") || plain.endsWith("json") || plain.endsWith("xml")) {
    const text = await blob.slice(0, MAX_TEXT).text();
    return h("pre", { class: "text", tabindex: "0" }, text, blob.size > MAX_TEXT && h("em", {}, "\n… and more: save it to see all."));
  }
  return h("p", { class: "soft" }, `Nothing here shows ${plain || "that type"}.`);
}

function page(html, name) {
  const frame = h("iframe", { class: "page", sandbox: "allow-scripts", src: "console/preview.html", title: `Preview of ${name}` });
  frame.addEventListener("load", () => frame.contentWindow?.postMessage(html, "*"), { once: true });
  return frame;
}

async function archive(blob, signal) {
  let files;
  try {
    files = await readZip(blob);
  } catch (error) {
    return h("p", { class: "soft" }, `It cannot be read as a zip: ${error.message}`);
  }
  const view = h("div", { class: "shown" });
  let current = null;
  const show = async (file) => {
    current = file;
    draw();
    try {
      const content = await file.read(MAX_PREVIEW);
      const shown = await preview(content, BY_ENDING[file.name.split(".").pop().toLowerCase()] ?? "", file.name, signal);
      if (current === file) view.replaceChildren(shown);
    } catch (error) {
      view.replaceChildren(h("p", { class: "soft" }, error.message));
    }
  };
  const list = h("ul", { class: "files" });
  const draw = () => fill(list, current?.name, () => files.map((file) => h("li", {},
    h("button", { type: "button", class: "link", "aria-pressed": String(file === current), "data-focus": file.name, onclick: () => show(file) }, file.name),
    h("span", { class: "soft" }, sizeText(file.size)))));
  draw();
  const best = files.find((file) => file.name === "index.html") ?? files.find((file) => file.name.endsWith(".html")) ?? files[0];
  if (best) show(best);
  return h("div", { class: "archive" }, list, view);
}

// One artifact: its name, what it is, a preview that opens, and a button that saves it. What is not given in `name`,
// `mediaType` and `size` is known once it has been fetched.
export function artifactBox({ app, id, name, mediaType, size, signal, open = false }) {
  const title = h("span", { class: "name" });
  const what = h("span", { class: "soft" });
  const content = h("div", { class: "shown" });
  let found = null;
  const head = (its) => {
    title.textContent = its.name ?? `${id.slice(0, 8)}…`;
    what.textContent = [its.type?.split(";")[0], its.size !== undefined && sizeText(its.size)].filter(Boolean).join(" · ");
  };
  const fetched = async () => {
    found ??= await fetchArtifact(id, signal);
    head({ name: found.name, type: found.type, size: found.blob.size });
    return found;
  };
  const details = h("details", { class: "artifact", ontoggle: async () => {
    if (!details.open || content.childElementCount) return;
    content.replaceChildren(h("p", { class: "soft" }, "Loading…"));
    try {
      const { blob, type, name: its } = await fetched();
      content.replaceChildren(await preview(blob, type, its, signal));
    } catch (error) {
      if (!signal.aborted) content.replaceChildren(h("p", { class: "wrong" }, error.message));
    }
  } }, h("summary", {}, icon("link"), title, what), content);
  head({ name, type: mediaType, size });
  if (open) details.open = true;
  return h("div", { class: "artifact-row" }, details, acting("Save", async () => {
    try {
      const { blob, name: its } = await fetched();
      save(blob, its);
    } catch (error) {
      app.report(error);
    }
  }, { class: "quiet", "aria-label": `Save ${name ?? "the artifact"}` }));
}
