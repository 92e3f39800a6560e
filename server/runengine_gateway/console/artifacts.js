// Artifacts, to look at and to save. HTML is written into preview.html, which is of no origin and runs no other script.
// In pictures, SVG too, nothing runs: they are <img>. None is ever opened as a page of its own.

import { request } from "./api.js";
import { acting, button, h, icon, json, later, render, soft } from "./dom.js";
import { sizeText } from "./words.js";
import { unzip } from "./unzipit.js";

const MOST = 16 * 1024 * 1024, TOO_LARGE = "It is too large to be shown here.", MOST_TEXT = 512 * 1024;
const TYPES = { html: "text/html", svg: "image/svg+xml", png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", zip: "application/zip" };

async function load(id) {
	const response = await request("GET", `artifacts/${id}`), blob = await response.blob();
	const name = response.headers.get("content-disposition")?.match(/filename\*=UTF-8''([^;]+)/)?.[1] ?? id;
	return { blob, type: blob.type, name: decodeURIComponent(name) };
}

// As bytes: a browser that opens it from here does not take it for a page.
function save({ blob, name }) {
	const link = document.createElement("a");
	Object.assign(link, { download: name, href: URL.createObjectURL(new Blob([blob])) }).click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function preview({ blob, type, name }) {
	const plain = type.split(";")[0].trim().toLowerCase();
	if (blob.size > MOST) return soft(TOO_LARGE);
	if (plain.startsWith("image/") && Object.values(TYPES).includes(plain)) {
		const src = URL.createObjectURL(new Blob([blob], { type: plain }));
		return h("img.picture", { src, alt: name, onload: () => URL.revokeObjectURL(src) });
	}
	if (plain === "text/html") {
		const html = await blob.text();
		return h("iframe.page", { sandbox: "allow-scripts", src: "console/preview.html", title: `Preview of ${name}`, onload: ({ target }) => {
			target.onload = null;
			target.contentWindow.postMessage(html, "*");
		} });
	}
	if (plain === "application/zip") return archive(Object.values((await unzip(blob)).entries).filter(each => !each.isDirectory));
	if (!/^text\/|json|xml/.test(plain)) return soft(`Nothing here shows ${plain}.`);
	const text = await blob.slice(0, MOST_TEXT).text();
	try {
		return json(JSON.parse(text));
	} catch {
		return h("pre.text", { tabindex: 0 }, text, blob.size > MOST_TEXT && "\n… save it to see all");
	}
}

function archive(files) {
	let shown = files.find(({ name }) => name === "index.html") ?? files[0];
	// No more is unpacked than the size that the archive says.
	const content = async () => ({ blob: await shown.blob(), name: shown.name, type: TYPES[shown.name.split(".").pop().toLowerCase()] ?? "text/plain" });
	return h(".archive", { own: true, ref: function draw(element) {
		render(element, h("ul.files", files.map(file => h("li", button(file.name, () => {
			shown = file;
			draw(element);
		}, { class: "link", ariaPressed: file === shown }), h("span.soft", sizeText(file.size))))), shown && (shown.size > MOST ? soft(TOO_LARGE) : later(shown.name, content, preview)));
	} });
}

// Its name, a preview to open, and a button that saves it.
export function artifact({ id, name, mediaType = "", size }, open) {
	const about = [mediaType.split(";")[0], size && sizeText(Number(size))].filter(Boolean).join(" · ");
	return h(".artifact", { key: id, own: true, ref: element => {
		let loading, opened = false;
		const draw = () => render(element,
			h("details", { open, ontoggle: () => {
				opened = true;
				draw();
			} }, h("summary", icon("fold"), h("b", name ?? `Artifact ${id.slice(-8)}`), h("span.soft", about)), opened && later("preview", its, preview)),
			acting("Save", async () => save(await its()), { class: "quiet", ariaLabel: `Save ${name ?? "it"}` }));
		const its = () => (loading ??= load(id).then(found => {
			({ name } = found);
			draw();
			return found;
		}));
		draw();
	} });
}
