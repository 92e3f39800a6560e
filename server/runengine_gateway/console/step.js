// One step of a run: its attempts, its error, what it was called with and what it wrote, the artifacts it saved.

import { get } from "./api.js";
import { artifactBox } from "./artifacts.js";
import { badge, button, fill, h, icon, jsonBox } from "./dom.js";
import { duration, fullMoment, moment } from "./words.js";

// The element of the panel, and `draw({ run, step, node, earlier, steps })`: `step` is undefined for a node that has
// not run, `node` null when none is chosen.
export function stepPanel({ app, id, signal, close }) {
  const element = h("aside", { class: "panel step", "aria-label": "Step" });
  let attempt = null, of = null;

  function draw({ run, step, node, earlier, steps }) {
    element.hidden = !node;
    if (!node) return;
    if (of !== step?.id) [of, attempt] = [step?.id, null];
    const all = step ? [...(earlier.get(step.id) ?? []), step] : [];
    const shown = all.find((each) => each.attempt === attempt) ?? step;
    const waits = run.waitingFor?.some((each) => each.stepId === node);
    const loops = step ? steps.filter((each) => each.stepId === node && each.parentStepId === step.parentStepId) : [];
    fill(element, [node, shown, all.length, waits, loops.length], () => [
      h("div", { class: "heading" }, h("h2", {}, node.split(":").map((part, index) => (index ? [h("span", { class: "soft" }, ":"), part] : part))),
        shown && badge(waits ? "waiting" : shown.status),
        h("button", { type: "button", class: "quiet", "aria-label": "Close the step", onclick: close, "data-focus": "close" }, icon("close"))),
      !shown && h("p", { class: "soft" }, waits ? "It waits for somebody." : run.status === "completed" ? "This run did not come here." : "It has not run yet."),
      all.length > 1 && h("div", { class: "chips", role: "group", "aria-label": "Attempt" }, all.map((each) =>
        button([icon(each.status), `Attempt ${each.attempt}`], () => {
          attempt = each.attempt;
          draw({ run, step, node, earlier, steps });
        }, { class: `chip is-${each.status}`, "aria-pressed": String(each === shown), "data-focus": `attempt-${each.attempt}` }))),
      shown && details(shown, loops)]);
  }

  function details(step, loops) {
    const data = h("div", {}, h("p", { class: "soft" }, "Loading…"));
    // An attempt that goes on has its input already; the update comes with its end, and then this is drawn anew.
    get(`runs/${id}/steps/${step.id}/data`, { attempt: step.attempt }, signal).then((found) => {
      data.replaceChildren(
        h("h3", {}, "Input"), found.inputNote ? h("p", { class: "soft" }, found.inputNote) : jsonBox(found.input),
        h("h3", {}, "Update"), found.updateNote ? h("p", { class: "soft" }, found.updateNote) : step.status === "completed" ? jsonBox(found.update) : h("p", { class: "soft" }, "None: it has not completed."));
    }, (error) => {
      if (!signal.aborted) data.replaceChildren(h("p", { class: "soft" }, error.message));
    });
    return [
      h("dl", { class: "facts" },
        h("div", {}, h("dt", {}, "Skill"), h("dd", {}, step.skillId)),
        h("div", {}, h("dt", {}, "Recorded"), h("dd", { title: fullMoment(step.createdAt) }, moment(step.createdAt))),
        step.durationMs !== null && h("div", {}, h("dt", {}, "Took"), h("dd", {}, duration(step.durationMs))),
        step.cacheHit && h("div", {}, h("dt", {}, "Cache"), h("dd", {}, "its result came from the cache")),
        loops.length > 1 && h("div", {}, h("dt", {}, "Execution"), h("dd", {}, `${loops.findIndex((each) => each.id === step.id) + 1} of ${loops.length}`))),
      step.error && h("section", { class: "failure", "aria-label": "Error of the step" },
        h("p", {}, h("code", {}, step.error.code), h("span", { class: "soft" }, step.error.retryable ? " · another attempt may help" : "")),
        h("pre", { class: "message", tabindex: "0" }, step.error.message)),
      step.outputArtifactIds && [h("h3", {}, "Artifacts"), step.outputArtifactIds.map((each) => artifactBox({ app, id: each, signal }))],
      data];
  }

  return { element, draw };
}
