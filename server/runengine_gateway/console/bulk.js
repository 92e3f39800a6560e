// Retries or cancels several runs, shows how far that is, and what was refused.

import { send } from "./api.js";
import { button, dialog, h } from "./dom.js";
import { isActive, plural, shortId } from "./words.js";

const ACTIONS = {
	retry: { verb: "Retry", done: "retried", call: (id) => ["POST", `runs/${id}/retry`], allowed: (run) => !isActive(run) && run.status !== "completed", about: "Completed steps are kept and do not run again." },
	cancel: { verb: "Cancel", done: "cancelled", call: (id) => ["DELETE", `runs/${id}`], allowed: (run) => isActive(run) || run.status === "cancelled", about: "That is final at once; a cancelled run can be retried." },
};
const AT_ONCE = 4;

// Returns when the dialog has been closed.
export async function actOnMany(action, runs) {
	const { verb, done, call, allowed, about } = ACTIONS[action], unable = runs.filter((run) => !allowed(run)).length, rest = [...runs], refused = [];
	let state = "asks", count = 0;

	async function act(redraw) {
		state = "acts";
		redraw();
		await Promise.all(Array.from({ length: AT_ONCE }, async () => {
			for (let run = rest.shift(); run && state === "acts"; run = rest.shift()) {
				await send(...call(run.id)).then(() => { count += 1; }, (error) => refused.push([run.id, error.message]));
				redraw();
			}
		}));
		state = "ended";
		redraw();
	}

	await dialog((close, redraw) => [h("h2", `${verb} ${plural(runs.length, "run")}?`),
		state === "asks" ? h("p", unable > 0 && `${plural(unable, "run")} of them cannot be ${done} as they are, and will be refused. `, about) : [
			h("progress", { max: runs.length, value: count + refused.length, "aria-label": "Progress" }),
			h("p", { role: "status" }, `${count} ${done}, ${refused.length} refused${rest.length ? `, ${rest.length} ${state === "acts" ? "to go" : "left as they were"}` : ""}.`)],
		h("ul.refused", refused.map(([id, why]) => h("li", h("a", { href: `#/runs/${id}`, onclick: close }, shortId(id)), ` ${why}`))),
		h("div.buttons", state === "asks" ? [button(`${verb} ${plural(runs.length, "run")}`, () => act(redraw), { class: "primary" }), button("Back", close)]
			: state === "acts" ? button("Stop", () => { state = "stops"; }) : button("Close", close, { class: "primary" }))]);
	state = "stops";
}
