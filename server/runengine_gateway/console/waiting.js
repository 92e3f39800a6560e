// What a run waits for, with a form for each answer.

import { Problem, send } from "./api.js";
import { acting, fill, h, json } from "./dom.js";
import { schemaForm } from "./forms.js";
import { fullMoment, moment } from "./words.js";

// The element, and `draw(run)`. `changed(run)` is called with the run that goes on.
export function waitingBox({ app, id, changed }) {
  const element = h("div");

  const answer = async (waits, value) => {
    try {
      const { body } = await send("POST", `runs/${id}/resume`, { values: { [waits.id]: value } });
      app.say("Sent. The run goes on.");
      changed(body);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      app.say(`${error.message} ${error.violations.map((each) => `${each.field} ${each.description}`).join("; ")}`, "bad");
    }
  };

  function one(waits, index) {
    const send = (label, read, props) => acting(label, async () => {
      let value;
      try {
        value = read();
      } catch (error) {
        app.say(error.message, "bad");
        return;
      }
      await answer(waits, value);
    }, { "data-focus": `${waits.id}-${label}`, ...props });
    const name = `answer-${index}`;
    return h("section.waits", { "aria-label": `Waits at ${waits.stepId}` },
      h("h2", "Waits for you at ", h("code", waits.stepId), h("span.soft", { title: fullMoment(waits.since) }, ` since ${moment(waits.since)}`)),
      waits.note && h("p.soft", waits.note),
      waits.value !== null && (typeof waits.value === "string" ? h("p.asks", waits.value) : h("div.json", json(waits.value))),
      form(waits.value, name, send));
  }

  function form(value, name, send) {
    if (Array.isArray(value?.action_requests)) return decisions(value, name, send);
    if (value?.schema && typeof value.schema === "object") {
      const fields = schemaForm(value.schema, {}, name);
      return [fields.element, h("div.buttons", send("Send", fields.read, { class: "primary" }))];
    }
    const text = h("textarea", { id: name, rows: "2" });
    const kind = h("select", { "aria-label": "Kind of answer" }, h("option", { value: "text" }, "as text"), h("option", { value: "json" }, "as JSON"));
    return [
      h("div.buttons", send("Approve", () => true, { class: "primary" }), send("Decline", () => false), h("span.soft", "sends true or false")),
      h("div.field", h("label", { for: name }, "Or another answer"), h("div.row-of", text, kind, send("Send", () => {
        if (kind.value === "text") return text.value;
        try {
          return JSON.parse(text.value);
        } catch {
          throw new Error("The answer is not JSON.");
        }
      })))];
  }

  // What LangChain's HumanInTheLoopMiddleware asks: a decision for each call of a tool.
  function decisions(value, name, send) {
    const parts = value.action_requests.map((action, index) => {
      const allowed = value.review_configs?.find((each) => each.action_name === action.name)?.allowed_decisions ?? ["approve", "reject"];
      const id = `${name}-${index}`;
      const choice = h("select", { id }, allowed.map((each) => h("option", { value: each }, each)));
      const text = h("textarea", { rows: "2", "aria-label": `Arguments or message for ${action.name}` });
      text.value = JSON.stringify(action.args ?? {});
      text.hidden = true;
      choice.addEventListener("change", () => {
        text.hidden = choice.value === "approve";
        text.value = choice.value === "edit" ? JSON.stringify(action.args ?? {}) : "";
      });
      const read = () => {
        if (choice.value === "edit") return { type: "edit", edited_action: { name: action.name, args: JSON.parse(text.value) } };
        return choice.value === "approve" ? { type: "approve" } : { type: choice.value, message: text.value };
      };
      return { read, element: h("div.field", h("label", { for: id }, action.name), choice, text) };
    });
    return [parts.map((each) => each.element), h("div.buttons", send("Decide", () => ({ decisions: parts.map((each) => each.read()) }), { class: "primary" }))];
  }

  const draw = (run) => fill(element, run.waitingFor?.map((each) => each.id) ?? [], () => (run.waitingFor ?? []).map(one));
  return { element, draw };
}
