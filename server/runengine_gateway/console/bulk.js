// Retries or cancels several runs, shows how far that is, and what became of each.

import { Problem, send } from "./api.js";
import { button, h } from "./dom.js";
import { count, isActive, shortId } from "./words.js";

const AT_ONCE = 4;
const CALLS = { retry: ["POST", (id) => `runs/${id}/retry`], cancel: ["DELETE", (id) => `runs/${id}`] };
const DONE = { retry: "retried", cancel: "cancelled" };
const allows = { retry: (run) => ["failed", "cancelled"].includes(run.status), cancel: (run) => isActive(run) || run.status === "cancelled" };

// Opens a dialog, and returns when it has been closed.
export function actOnMany({ app, action, runs }) {
  const able = runs.filter(allows[action]).length;
  const bar = h("progress", { max: runs.length, value: 0, "aria-label": "Progress" });
  const said = h("p", { role: "status" });
  const refused = h("ul", { class: "refused" });
  const buttons = h("div", { class: "buttons" });
  const verb = action === "retry" ? "Retry" : "Cancel";
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "many-title" },
    h("h2", { id: "many-title" }, `${verb} ${count(runs.length, "run")}?`),
    h("p", {}, able === runs.length ? "" : `${count(runs.length - able, "run")} of them cannot be ${DONE[action]} as they are now, and will be refused. `,
      action === "cancel" ? "Cancelling is final at once; a cancelled run can be retried." : "Completed steps are kept, and do not run again."),
    bar, said, refused, buttons);
  let stopped = false;
  bar.hidden = true;
  dialog.addEventListener("close", () => { stopped = true; });

  async function act() {
    const rest = [...runs];
    let done = 0, failed = 0;
    bar.hidden = false;
    buttons.replaceChildren(button("Stop", () => { stopped = true; }));
    buttons.firstChild.focus();
    const tell = () => {
      bar.value = done + failed;
      said.textContent = `${done} ${DONE[action]}${failed ? `, ${failed} refused` : ""}${rest.length ? `, ${rest.length} to go` : ""}.`;
    };
    const one = async () => {
      for (let run = rest.shift(); run && !stopped; run = rest.shift()) {
        try {
          const [method, path] = CALLS[action];
          await send(method, path(run.id));
          done += 1;
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          failed += 1;
          refused.append(h("li", {}, h("a", { href: app.link(`/runs/${run.id}`) }, h("code", {}, shortId(run.id))), ` ${error.message}`));
          if (error.status === 401) stopped = true;
        }
        tell();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    if (stopped) said.textContent += " Stopped.";
    buttons.replaceChildren(button("Close", () => dialog.close(), { class: "primary" }));
    buttons.firstChild.focus();
  }

  buttons.append(button(`${verb} ${count(runs.length, "run")}`, act, { class: action === "cancel" ? "danger primary" : "primary" }), button("Back", () => dialog.close()));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve();
    });
  });
}
