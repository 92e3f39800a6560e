// Triggers a run: a new one, or one like another.

import { Problem, get, send } from "./api.js";
import { acting, h } from "./dom.js";
import { schemaForm } from "./forms.js";
import { UUID, shortId } from "./words.js";

export function triggerView({ app, element, query, signal }) {
  app.title("Trigger a run");
  const from = query.get("from");
  const wrong = h("div.wrong", { role: "alert" });
  const payload = h("div");
  let form = null, workflows = [], like = null;

  const workflow = h("select", { id: "workflow", onchange: () => drawPayload(null) });
  const input = (id, label, about, props) => [h("div.field", h("label", { for: id }, label), h("input", { id, "aria-describedby": `${id}-about`, spellcheck: "false", ...props }), h("p.soft", { id: `${id}-about` }, about))];
  const campaign = input("campaign", "Campaign", "The id of the campaign that it works for; may be left empty.");
  const thread = input("thread", "Thread", "Runs of one thread go on from one another.");
  const priority = input("priority", "Priority", "-100 to 100; greater goes first.", { type: "number", min: "-100", max: "100", value: "0" });
  const value = (fields) => fields[0].querySelector("input").value.trim();
  const put = (fields, text) => { fields[0].querySelector("input").value = text ?? ""; };

  function drawPayload(given) {
    const chosen = workflows.find((each) => each.name === workflow.value);
    form = schemaForm(chosen?.inputSchema ?? {}, given, "payload");
    payload.replaceChildren(h("p.soft", chosen ? (chosen.workers ? "" : "No worker serves it at the moment: the run will wait.") : ""), form.element);
  }

  async function trigger() {
    wrong.replaceChildren();
    try {
      const context = { ...like?.context, campaignId: value(campaign) || undefined, threadId: value(thread) || undefined };
      if (context.campaignId && !UUID.test(context.campaignId)) throw new Error("The campaign is not an id.");
      const { body: run, headers } = await send("POST", "runs", {
        workflowName: workflow.value, triggerPayload: form.read(), priority: Number(value(priority)) || 0,
        context: Object.values(context).some((each) => each !== undefined) ? context : null,
      });
      if (headers.get("runengine-campaign") === "missing") app.say("Triggered. No campaign has that id, so it updates none.");
      else app.say(headers.get("runengine-workers") === "0" ? "Triggered. No worker serves this workflow at the moment." : "Triggered.");
      app.go(`/runs/${run.id}`);
    } catch (error) {
      const violations = error.violations ?? [];
      wrong.replaceChildren(h("p", error.message), violations.length > 0 && h("ul", violations.map((each) => h("li", h("code", each.field), ` ${each.description}`))) || "");
      if (!(error instanceof Problem) && error.constructor !== Error) throw error;
    }
  }

  async function read() {
    try {
      let pageToken = "";
      do {
        const page = await get("workflows", { pageToken }, signal);
        workflows.push(...page.workflows);
        pageToken = page.nextPageToken;
      } while (pageToken);
      like = from && await get(`runs/${from}`, {}, signal);
    } catch (error) {
      if (signal.aborted) return;
      element.replaceChildren(h("h1", "Trigger a run"), h("p.wrong", { role: "alert" }, error.message));
      return;
    }
    const wanted = like?.workflowName ?? query.get("workflow") ?? workflows[0]?.name;
    const names = [...new Set([...workflows.map((each) => each.name), ...(wanted ? [wanted] : [])])];
    workflow.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === wanted }, name)));
    put(campaign, like?.context?.campaignId ?? query.get("campaign"));
    put(thread, like?.context?.threadId);
    put(priority, String(like?.priority ?? 0));
    drawPayload(like?.triggerPayload ?? null);
    element.replaceChildren(
      h("h1", like ? ["Trigger again, like ", h("a", { href: app.link(`/runs/${from}`) }, h("code", shortId(from)))] : "Trigger a run"),
      names.length === 0 ? h("p", "No worker has registered a workflow yet.") : h("form.trigger", { onsubmit: (event) => { event.preventDefault(); go.click(); } },
        h("section.panel.stack", h("div.field", h("label", { for: "workflow" }, "Workflow"), workflow), h("h2", "Payload"), payload),
        h("section.panel.stack", h("h2", "Context"), campaign, thread, priority), wrong, h("div.buttons", go)));
  }

  const go = acting("Trigger", trigger, { class: "primary" });
  element.append(h("p.soft", "Loading…"));
  read();
}
