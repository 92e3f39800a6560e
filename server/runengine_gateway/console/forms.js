// A form from a JSON Schema, which may be left for the JSON itself.

import { alert, chip, chips, field, h, options, render } from "./dom.js";

// The schema without references and without "or null".
function plain(schema = {}, root, depth = 0) {
	const { $ref, anyOf, ...others } = schema, some = anyOf?.filter(({ type }) => type !== "null");
	if (depth > 8 || !($ref || some?.length === 1)) return schema;
	return plain($ref ? $ref.slice(2).split("/").reduce((found, part) => found?.[part], root) : { ...others, ...some[0] }, root, depth + 1);
}

export function asJson(text, name) {
	try {
		return JSON.parse(text);
	} catch {
		throw new Error(`${name} is not JSON.`);
	}
}

export const valueOf = id => document.getElementById(id).value;

// One field: its element, and what is in it; undefined where it is left empty.
function part(name, schema, required, value, prefix) {
	const id = `${prefix}-${name}`, given = value ?? schema.default, type = [schema.type].flat().find(each => each !== "null");
	const choices = schema.enum ?? (type === "boolean" && [true, false]);
	const text = typeof given === "string" && !["array", "object"].includes(type) ? given : JSON.stringify(given ?? undefined) ?? "";
	const input = choices ? h("select", { value: choices.indexOf(given) }, options([[-1, ""], ...choices.map((each, index) => [index, String(each)])]))
		: h("textarea", { rows: 1, value: text, placeholder: type ?? "text or JSON" });
	const read = () => {
		const typed = valueOf(id);
		if (choices || !typed.trim()) return choices?.[typed];
		if (type) return type === "string" ? typed : asJson(typed, name);
		try {
			return JSON.parse(typed);
		} catch {
			return typed;
		}
	};
	return { name, read, element: field(id, [name, required && h("span.soft", " required")], input, schema.description) };
}

// Returns { element, read() }: `read` returns the object, and raises Error in words for whoever fills it in.
export function schemaForm(schema, value, prefix) {
	const root = plain(schema ?? {}, schema), known = Object.entries(root.properties ?? {}), id = `${prefix}-json`;
	let current = value ?? {}, mode = known.length ? "Form" : "JSON", wrong = "", read;

	function draw(element) {
		const parts = mode === "Form" && known.map(([name, each]) => part(name, plain(each, schema), root.required?.includes(name), current[name], prefix));
		read = () => {
			// What the schema does not know stays; `undefined` is in no JSON.
			if (parts) return { ...current, ...Object.fromEntries(parts.map(each => [each.name, each.read()])) };
			const found = asJson(valueOf(id) || "{}", "This");
			if (found?.constructor !== Object) throw new Error("This must be an object: {…}.");
			return found;
		};
		const turn = to => {
			try {
				[current, mode, wrong] = [read(), to, ""];
			} catch (error) {
				wrong = error.message;
			}
			draw(element);
		};
		render(element, known.length > 0 && chips("Fill in as", ["Form", "JSON"].map(each => chip(each, each, each === mode, () => turn(each)))),
			parts ? parts.map(each => each.element) : field(id, "As JSON", h("textarea.code", { rows: 10, value: JSON.stringify(current, null, 2) })), wrong && alert(wrong));
	}

	return { element: h(".stack", { own: true, ref: draw, key: prefix }), read: () => read() };
}
