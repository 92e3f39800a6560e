// Retries or cancels many runs by one operation of the server, which goes on unseen.

import { all, get, pause, send } from "./api.js";
import { alert, button, dialog, field, h, idLink, soft } from "./dom.js";
import { valueOf } from "./forms.js";
import { plural } from "./words.js";

const counted = (number, words) => `${number.toLocaleString()} ${words}`;
const VERBS = { retry: ["Retry", "retried", "Completed steps are kept and do not run again."], cancel: ["Cancel", "cancelled", "That is final at once; a cancelled run can be retried."] };

// `runs`: { ids } or { filter }. Returns when the dialog has been closed.
export async function actOnMany(action, runs) {
	const [verb, done, about] = VERBS[action];
	let operation, wrong, refused = [], closed = false;

	async function call(redraw, body) {
		try {
			({ body: operation } = await (body ? send("POST", "bulk-operations", { action, ...runs, ...body }) : send("DELETE", `bulk-operations/${operation.id}`)));
			wrong = null;
		} catch (error) {
			wrong = error.message;
		}
		redraw();
	}

	async function act(redraw) {
		await call(redraw, { reason: valueOf("reason") || null });
		while (operation.status === "running" && !closed) {
			await pause(400);
			// Whatever keeps it from being read does not keep the server from going on.
			operation = await get(`bulk-operations/${operation.id}`).catch(() => operation);
			redraw();
		}
		if (operation.refused.length) refused = await all(`bulk-operations/${operation.id}/items`, undefined, { outcome: "refused" }).catch(() => []);
		redraw();
	}

	const refusals = () => operation.refused.map(({ reason, count }) => counted(count, reason)).join(", ");

	await dialog((close, redraw) => {
		if (!operation && !wrong) call(redraw, { dryRun: true });
		const { status, matched, pending, note } = operation ?? {}, asks = status === "dry_run";
		return [h("h2", operation ? `${verb} ${plural(matched, "run")}?` : verb), wrong && alert(wrong), !operation && !wrong && soft("Counting…"),
			asks && [h("p", operation.refused.length > 0 && `${plural(pending, "run")} can be ${done}; refused will be: ${refusals()}. `, about), field("reason", "Reason", h("input"), "Kept with the operation; may be left empty.")],
			operation && !asks && [h("progress", { max: matched, value: matched - pending, ariaLabel: "Progress" }),
				h("p", { role: "status" }, [counted(operation.done, done), refusals() && `refused: ${refusals()}`, pending > 0 && counted(pending, "to go"), operation.aborted > 0 && counted(operation.aborted, "left as they were")].filter(Boolean).join("; ")), note && soft(note)],
			h("ul.refused", refused.slice(0, 100).map(({ runId, reason }) => h("li", { onclick: close }, idLink("runs", runId), ` ${reason}`))),
			h(".buttons", asks && button(`${verb} ${plural(pending, "run")}`, () => act(redraw), "primary"), status === "running" && button("Stop", () => call(redraw)), button(asks ? "Back" : "Close", close))];
	});
	closed = true;
}
