"""The views of the console with something to see in each."""

from __future__ import annotations

from typing import TypeAlias

from runengine_client import RunEngineClient

from tests.support.gates import Gates
from tests.support.patience import SECONDS

# By name: the place, and what is to be seen there before a picture is taken.
Views: TypeAlias = dict[str, tuple[str, str]]

BRIEF = {
    "product": "Solar Kettle", "audience": "campers", "channels": ["email", "instagram", "mastodon"],
    "tone": "friendly", "offer": "20 % off until Sunday", "locale": "en",
}  # fmt: skip


async def prepared(client: RunEngineClient, gates: Gates) -> Views:
    """Triggers runs of all kinds, and returns the views of them."""
    campaign = await client.create_campaign()
    context = {"campaignId": campaign.id}

    async def ended(workflow: str, payload: dict[str, object], **options: object) -> str:
        run = await client.trigger_run(workflow, trigger_payload=payload, **options)  # type: ignore[arg-type]
        await client.wait(run.id, timeout_seconds=SECONDS)
        return run.id

    completed = await ended("campaign-bundle", {**BRIEF, "paceSeconds": 0.2}, context=context)
    failed = await ended("campaign-bundle", {**BRIEF, "tone": "grim"}, context=context)
    everything = await ended("everything", {})
    asking = await client.trigger_run("asking")
    running = await client.trigger_run("fork", trigger_payload={"gates": gates.path}, context=context)
    for _ in range(2):
        await gates.next()
    for _ in range(2):
        await client.trigger_run("unserved", context=context)
    return {
        "sign-in": ("/runs", "#token"),
        "runs": ("/runs", "tbody tr"),
        "runs-empty": ("/runs?workflow=none", "text=No run matches"),
        "campaign": (f"/campaigns/{campaign.id}", "iframe"),
        "run-completed": (f"/runs/{completed}", ".node.is-completed"),
        "run-step": (f"/runs/{completed}?step=copywriting&tab=Artifacts", ".json"),
        "run-failed": (f"/runs/{failed}", ".failure"),
        "run-running": (f"/runs/{running.id}", ".node.is-running"),
        "run-waiting": (f"/runs/{asking.id}", ".waits"),
        "run-loops": (f"/runs/{everything}", ".node.is-completed"),
        "run-missing": ("/runs/0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e", "text=There is no such run"),
        "trigger": (f"/trigger?from={completed}", "text=Payload"),
    }
