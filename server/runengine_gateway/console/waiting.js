// What a run waits for, with a form for each answer.

import { send } from "./api.js";
import { acting, field, h, json, options, render, soft } from "./dom.js";
import { asJson, schemaForm, valueOf } from "./forms.js";
import { when } from "./words.js";

// `changed(run)` is called with the run that goes on, `say(text, kind)` with what became of an answer.
export function waitingFor(run, say, changed) {
	return (run.waitingFor ?? []).map(({ id, stepId, since, note, value }) => {
		const answer = (label, read, props) => acting(label, async () => {
			try {
				changed((await send("POST", `runs/${run.id}/resume`, { values: { [id]: read() } })).body);
				say("Sent. The run goes on.");
			} catch (error) {
				say(error.message, "bad");
			}
		}, props);
		return h("section.waits", { key: id, ariaLabel: `Waits at ${stepId}` }, h("h2", "Waits for you at ", h("code", stepId), h("span.soft", " since ", when(since))), note && soft(note),
			typeof value === "string" ? h("p.asks", value) : value !== null && json(value),
			// Made once: what is being typed stays.
			h(".stack", { own: true, ref: element => render(element, form(id, value, answer)) }));
	});
}

function form(id, value, answer) {
	if (value?.schema?.constructor === Object) {
		const { element, read } = schemaForm(value.schema, {}, id);
		return [element, h(".buttons", answer("Send", read, "primary"))];
	}
	if (Array.isArray(value?.action_requests)) {
		const parts = value.action_requests.map((request, index) => decision(request, value.review_configs, `${id}-${index}`));
		return [parts.map(each => each.element), h(".buttons", answer("Decide", () => ({ decisions: parts.map(each => each.read()) }), "primary"))];
	}
	const read = () => (valueOf(`${id}-kind`) === "as JSON" ? asJson(valueOf(id), "The answer") : valueOf(id));
	return [h(".buttons", answer("Approve", () => true, "primary"), answer("Decline", () => false), h("span.soft", "send true or false; or")), field(id, "Another answer", h("textarea", { rows: 1 })),
		h(".buttons", h("select", { id: `${id}-kind`, ariaLabel: "Kind of answer" }, options(["as text", "as JSON"])), answer("Send", read))];
}

// What LangChain's HumanInTheLoopMiddleware asks for each call of a tool.
function decision({ name, args }, configs, id) {
	const allowed = configs?.find(each => each.action_name === name)?.allowed_decisions ?? ["approve", "reject"];
	const read = () => {
		const type = valueOf(id), text = valueOf(`${id}-text`);
		if (type === "edit") return { type, edited_action: { name, args: asJson(text, `The arguments of ${name}`) } };
		return type === "approve" ? { type } : { type, message: text };
	};
	return { read, element: [field(id, name, h("select", options(allowed))), field(`${id}-text`, "Arguments for edit, or a message", h("textarea", { rows: 1, value: JSON.stringify(args) }))] };
}
