// Triggers a run: a new one, or one like another.

import { all, get, send, session } from "./api.js";
import { acting, alert, field, h, idLink, options, render, soft } from "./dom.js";
import { schemaForm, valueOf } from "./forms.js";

export function triggerView({ app, element, query, signal }) {
	const from = query.get("from"), value = id => valueOf(id).trim(), known = () => workflows.find(each => each.name === name);
	let workflows, like, name, form, wrong;
	app.title("Trigger a run");

	function choose(chosen, payload) {
		name = chosen;
		form = schemaForm(known()?.inputSchema, payload, `payload-${name}`);
		draw();
	}

	const input = (id, label, text, about) => field(id, label, h("input", { value: text ?? "" }), about);

	function draw() {
		const names = [...new Set([...workflows.map(each => each.name), name])].filter(Boolean), context = like?.context;
		render(element, h("h1", like ? ["Trigger again, like ", idLink("runs", from)] : "Trigger a run"),
			names.length === 0 ? h("p", "No worker has registered a workflow yet.") : h(".trigger",
				h("section.panel.stack", field("workflow", "Workflow", h("select", { value: name, onchange: ({ target }) => choose(target.value) }, options(names))),
					known()?.workers === 0 && soft("No worker serves it at the moment: the run will wait."), h("h2", "Payload"), form.element),
				h("section.panel.stack", h("h2", "Context"), input("campaign", "Campaign", context?.campaignId ?? query.get("campaign"), "The id of the campaign that it works for, if any."),
					input("thread", "Thread", context?.threadId, "Runs of one thread go on from one another, if given."), input("priority", "Priority", like?.priority || 0, "-100 to 100: the greatest of the queued goes first.")),
				wrong && alert(wrong), h(".buttons", acting("Trigger", trigger, "primary"))));
	}

	async function trigger() {
		try {
			const context = { ...like?.context, campaignId: value("campaign") || undefined, threadId: value("thread") || undefined };
			const { body, headers } = await send("POST", "runs", { workflowName: name, triggerPayload: form.read(), context: JSON.stringify(context) === "{}" ? null : context, priority: Number(value("priority")) });
			app.say(`Triggered.${headers.get("runengine-campaign") ? " No campaign has that id, so it updates none." : ""}${app.idle(headers)}`);
			app.go(`/runs/${body.id}`);
		} catch (error) {
			wrong = error.message;
			draw();
		}
	}

	const read = async () => {
		workflows = await all("workflows", signal);
		like = from && await get(`runs/${from}`, signal);
		choose(like?.workflowName ?? query.get("workflow") ?? workflows[0]?.name, like?.triggerPayload);
	};
	const start = () => form || read().catch(error => signal.aborted || render(element, h("h1", "Trigger a run"), alert(error.message)));
	session.addEventListener("token", start, { signal });
	start();
}
