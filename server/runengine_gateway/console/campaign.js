// A campaign: where it stands, what is live, and its runs with their exact counts.

import { UUID, fullMoment, moment, shortId } from "./words.js";
import { Problem, get } from "./api.js";
import { artifactBox } from "./artifacts.js";
import { badge, copyable, fill, h } from "./dom.js";
import { throttled, watchRuns } from "./live.js";
import { STATUSES, chips, runTable } from "./runs.js";

export function campaignView({ app, element, params: [id], query: first, signal }) {
  let query = first;
  const path = `campaigns/${encodeURIComponent(id)}`;
  app.title(`Campaign ${shortId(id)}`);
  const heading = h("div", { class: "heading" });
  const facts = h("dl", { class: "facts" });
  const live = h("section", { class: "panel", "aria-label": "Bundle" });
  const filters = h("div", { class: "filters" });
  const table = runTable({
    app, signal, hasCampaign: false, onPage: draw,
    load: (pageToken) => get(`${path}/runs`, { status: query.getAll("status"), limit: 50, pageToken }, signal),
    empty: () => [h("h2", {}, query.getAll("status").length ? "No run of these statuses" : "No runs yet"),
      h("p", {}, h("a", { class: "button", href: trigger() }, "Trigger a run of this campaign"))],
  });
  element.append(heading, facts, live, h("h2", {}, "Runs"), filters, table.element);

  function trigger() {
    return app.link("/trigger", { campaign: id });
  }

  function draw(page) {
    const chosen = query.getAll("status");
    const counts = page.statusCounts;
    const total = STATUSES.reduce((sum, status) => sum + counts[status], 0);
    fill(filters, [chosen, counts], () => chips("Status", [
      { id: "all", text: "All", pressed: chosen.length === 0, count: total },
      ...STATUSES.map((status) => ({ id: status, text: status, status, pressed: chosen.includes(status), count: counts[status] })),
    ], (pressed) => {
      const next = new Set(chosen);
      if (pressed === "all") next.clear();
      else if (!next.delete(pressed)) next.add(pressed);
      app.go(`/campaigns/${id}`, { status: [...next] });
    }));
  }

  function head(campaign) {
    fill(heading, campaign?.status ?? null, () => [
      h("h1", {}, "Campaign"), campaign && badge(campaign.status), copyable(id),
      h("a", { class: "button primary", href: trigger(), "data-focus": "trigger" }, "Trigger a run")]);
    fill(facts, campaign, () => campaign && [
      h("div", {}, h("dt", {}, "Created"), h("dd", { title: fullMoment(campaign.createdAt) }, moment(campaign.createdAt))),
      h("div", {}, h("dt", {}, "Changed"), h("dd", { title: fullMoment(campaign.updatedAt) }, moment(campaign.updatedAt))),
      h("div", {}, h("dt", {}, "Latest finished run"), h("dd", {}, campaign.latestRunId
        ? h("a", { href: app.link(`/runs/${campaign.latestRunId}`) }, h("code", {}, shortId(campaign.latestRunId))) : "none yet"))]);
    const bundle = campaign?.bundleUrl?.split("/").pop();
    fill(live, bundle ?? null, () => bundle
      ? [h("h2", {}, campaign.status === "live" ? "Live bundle" : "Last good bundle"), artifactBox({ app, id: bundle, signal, open: true })]
      : campaign && [h("h2", {}, "Bundle"), h("p", { class: "soft" }, "None yet: a run that completes with a bundle puts it here.")]);
  }

  const read = throttled(async () => {
    try {
      head(await get(path, {}, signal));
    } catch (error) {
      if (error instanceof Problem && error.status === 404) {
        head(null);
        fill(facts, "missing", () => h("p", { class: "soft" }, "No campaign has this id. Runs may name it all the same; they update none."));
      } else if (!signal.aborted) app.report(error);
    }
  }, 600);

  if (!UUID.test(id)) {
    element.replaceChildren(h("h1", {}, "That is no id of a campaign"), h("p", {}, h("a", { href: "#/runs" }, "All runs")));
    return undefined;
  }
  read();
  table.reset();
  watchRuns(`${path}/runs/watch`, { signal, onState: app.live, onChange: () => { read(); table.refresh(); } });
  return (changed) => {
    query = changed;
    table.reset();
  };
}
