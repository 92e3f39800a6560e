// A form from a JSON Schema, which may be left for the JSON itself.

import { button, h } from "./dom.js";

// The schema without references and without "or null".
function plain(schema, root) {
  for (let depth = 0; depth < 8; depth += 1) {
    if (schema?.$ref) schema = schema.$ref.slice(2).split("/").reduce((found, part) => found?.[part], root);
    else {
      const some = schema?.anyOf?.filter((each) => each.type !== "null");
      if (some?.length !== 1) break;
      schema = { ...schema, ...some[0], anyOf: undefined };
    }
  }
  return schema ?? {};
}

function asJson(text, name) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${name} is not JSON.`);
  }
}

// One field: { element, read() }, `read` returning undefined where it is left empty.
function field(name, schema, required, value, prefix) {
  const id = `${prefix}-${name}`;
  const type = [schema.type].flat().find((each) => each !== "null");
  const options = schema.enum ?? (type === "boolean" ? [true, false] : null);
  const given = value ?? schema.default;
  let input, read;
  if (options) {
    input = h("select", { id }, h("option", { value: "" }, ""), options.map((each, index) => h("option", { value: String(index), selected: each === given }, String(each))));
    read = () => options[input.value || NaN];
  } else if (["string", "integer", "number"].includes(type)) {
    input = type === "string" && String(given ?? "").length > 60 ? h("textarea", { id, rows: "3" }) : h("input", { id, inputmode: type === "string" ? "text" : "decimal" });
    input.value = given ?? "";
    read = () => {
      if (input.value === "") return undefined;
      if (type === "string") return input.value;
      const number = Number(input.value);
      if (Number.isNaN(number) || (type === "integer" && !Number.isInteger(number))) throw new Error(`${name} must be a number.`);
      return number;
    };
  } else {
    // Of any type: what is no JSON is a text.
    const any = !type;
    input = h("textarea", { id, rows: given && typeof given === "object" ? "3" : "1", spellcheck: "false", placeholder: any ? "text or JSON" : type === "array" ? "[…]" : "{…}" });
    input.value = given === undefined ? "" : any && typeof given === "string" ? given : JSON.stringify(given);
    read = () => {
      if (input.value.trim() === "") return undefined;
      try {
        return asJson(input.value, name);
      } catch (error) {
        if (!any) throw error;
        return input.value;
      }
    };
  }
  if (schema.description) input.setAttribute("aria-describedby", `${id}-about`);
  const element = h("div.field", h("label", { for: id }, name, required && h("span.soft", " required")), input,
    schema.description && h("p.soft", { id: `${id}-about` }, schema.description));
  return { element, read };
}

// { element, read() }: `read` returns the object, and raises Error with words for the person who fills it in.
export function schemaForm(schema, value, prefix) {
  const root = plain(schema, schema);
  const known = Object.entries(root.properties ?? {});
  const place = h("div.stack");
  let current = value ?? {}, mode = known.length ? "form" : "json", read;
  const modes = h("div.chips", { role: "group", "aria-label": "Kind of form" });
  const says = h("p.wrong", { role: "alert" });

  function draw() {
    modes.replaceChildren(...["form", "json"].map((each) => button(each === "form" ? "Form" : "JSON", () => {
      try {
        current = read();
        mode = each;
        says.textContent = "";
        draw();
        modes.querySelector("[aria-pressed=true]").focus();
      } catch (error) {
        says.textContent = error.message;
      }
    }, { class: "chip", "aria-pressed": String(each === mode) })));
    modes.hidden = known.length === 0;
    if (mode === "json") {
      const id = `${prefix}-json`;
      const input = h("textarea.code", { id, rows: "10", spellcheck: "false" });
      input.value = JSON.stringify(current, null, 2);
      read = () => {
        const found = input.value.trim() ? asJson(input.value, "This") : {};
        if (found === null || typeof found !== "object" || Array.isArray(found)) throw new Error("This must be an object: {…}.");
        return found;
      };
      place.replaceChildren(h("div.field", h("label", { for: id }, "As JSON"), input));
      return;
    }
    const fields = known.map(([name, each]) => [name, field(name, plain(each, schema), root.required?.includes(name), current[name], prefix)]);
    // What the schema does not know stays.
    const rest = Object.fromEntries(Object.entries(current).filter(([name]) => !(name in root.properties)));
    read = () => ({ ...rest, ...Object.fromEntries(fields.map(([name, each]) => [name, each.read()]).filter(([, each]) => each !== undefined)) });
    place.replaceChildren(...fields.map(([, each]) => each.element));
  }

  draw();
  return { element: h("div.stack", modes, place, says), read: () => read() };
}
