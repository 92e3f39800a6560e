"""What must have held of campaigns: their runs, their counts and their status move together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.faults.facts import RESOLUTION, STATUSES, Call, Facts, Row, in_sequence


def i7_transitions_share_a_transaction(facts: Facts) -> list[str]:
    """Run, campaign, counters and event move together; `latestRunId` never goes backwards."""
    found = _wrong_counts(facts)
    for campaign in facts.rows.campaigns:
        found += _wrong_campaign(facts, campaign)
    seen = [call for call in facts.answered("get_campaign") if call.answer]
    for campaign_id, calls in _calls_by(seen, "campaign").items():
        for before, after in in_sequence(calls):
            older, newer = _latest(before), _latest(after)
            if older and (not newer or facts.order(newer) < facts.order(older)):
                found.append(f"campaign {campaign_id} went back from run {older} to {newer}")
        for call in calls:
            if (latest := _latest(call)) and not any(
                event["to_status"] in ("completed", "failed") and event["at"] <= call.ended + RESOLUTION
                for event in facts.events.get(latest, [])
            ):
                found.append(f"campaign {campaign_id} named run {latest} before that had ended")
        found += _seen_behind(facts, campaign_id, calls)
    return found


def _latest(call: Call) -> str | None:
    assert call.answer is not None
    latest: str | None = call.answer["campaign"]["latest"]
    return latest


def _calls_by(calls: Iterable[Call], name: str) -> dict[str, list[Call]]:
    groups: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.asked[name]].append(call)
    return groups


def _wrong_counts(facts: Facts) -> list[str]:
    counted = Counter((run["tenant_id"], run["campaign_id"], run["status"]) for run in facts.rows.runs)
    told = {
        (row["tenant_id"], row["campaign_id"], status): row[status]
        for row in facts.rows.counts
        for status in STATUSES
    }
    found = []
    for key in {each for each in counted if each[1]} | set(told):
        if counted[key] != told.get(key, 0):
            _, campaign_id, status = key
            found.append(
                f"campaign {campaign_id} counts {told.get(key, 0)} {status} runs and has {counted[key]}"
            )
    for call in facts.answered("list"):
        assert call.answer is not None
        page = call.answer["list"]
        if page["total"] != sum(page["counts"].values()):
            found.append(f"a page told a total of {page['total']} and counts of {page['counts']}")
    return found


def _wrong_campaign(facts: Facts, campaign: Row) -> list[str]:
    ended = [
        (facts.order(run["id"]), event["attempt"], event["to_status"])
        for run in facts.rows.runs
        if (run["tenant_id"], run["campaign_id"]) == (campaign["tenant_id"], campaign["id"])
        for event in facts.events.get(run["id"], [])
        if event["to_status"] in ("completed", "failed")
    ]
    if not ended:
        moved = campaign["latest_run_id"] is not None or campaign["status"] != "draft"
        return (
            [f"campaign {campaign['id']} is {campaign['status']} without a run that ended"] if moved else []
        )
    (_, run_id), attempt, status = max(ended)
    expected = {"completed": "live", "failed": "failed"}[status]
    told = (campaign["latest_run_id"], campaign["latest_run_attempt"], campaign["status"])
    if told != (run_id, attempt, expected):
        return [
            f"campaign {campaign['id']} is {told[2]} by run {told[0]}, attempt {told[1]}; its latest is "
            f"{run_id}, attempt {attempt}, {status}"
        ]
    if status != "completed":
        return []
    saved = {
        artifact_id
        for step in facts.rows.steps
        if step["run_id"] == run_id and step["status"] == "completed"
        for artifact_id in step["output_artifact_ids"]
    }
    url = campaign["bundle_url"]
    # A run that has saved nothing leaves its campaign the bundle that it had.
    if url is not None and saved and url.rpartition("/")[2] not in saved:
        return [f"campaign {campaign['id']} shows {url}, which no completed step of run {run_id} has saved"]
    return []


def _seen_behind(facts: Facts, campaign_id: str, campaigns: list[Call]) -> list[str]:
    """Whoever has seen a run ended sees its campaign moved."""
    found = []
    ended = [
        (call, run)
        for call in facts.answered("get")
        for run in call.runs
        if run["status"] in ("completed", "failed")
        and run["id"] in facts.run
        and facts.run[run["id"]]["campaign_id"] == campaign_id
    ]
    for seen in campaigns:
        before = [facts.order(run["id"]) for call, run in ended if call.ended <= seen.began]
        latest = _latest(seen)
        if before and (latest is None or facts.order(latest) < max(before)):
            found.append(
                f"campaign {campaign_id} was at run {latest} after run {max(before)[1]} was seen ended"
            )
    return found
