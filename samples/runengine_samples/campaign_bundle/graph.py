"""Which skill runs when?

audience-research -> copywriting ------------------+-> landing-page ----+
                  -> art-direction -> illustration +-> email-variants --+-> quality-check -> bundle
                                                   +-> social-variants -+
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, RetryPolicy
from runengine.context import RunContext

from runengine_samples.campaign_bundle import brief as briefs
from runengine_samples.campaign_bundle.brief import Brief
from runengine_samples.campaign_bundle.bundle import (
    Check,
    as_json,
    check_quality,
    media_type_of,
    pack,
)
from runengine_samples.campaign_bundle.copywriting import (
    AudienceProfile,
    Copy,
    research_audience,
    write_copy,
)
from runengine_samples.campaign_bundle.landing_page import build_page
from runengine_samples.campaign_bundle.messages import write_mails, write_posts
from runengine_samples.campaign_bundle.pictures import Art, direct_art, hero, icon, mark


class CampaignState(Brief, total=False):
    """The brief, and what each skill makes of it. Files are kept by name as text."""

    audience_profile: AudienceProfile
    campaign_copy: Copy
    art: Art
    pictures: dict[str, str]
    landing_page: str
    mails: dict[str, str]
    posts: dict[str, str]
    quality_report: list[Check]
    manifest: dict[str, Any]
    bundle_artifact_id: str


async def audience_research(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Finds out what the audience cares about. Cached, so its artifact belongs to the first run that asks."""
    await _keep_pace(state)
    profile = research_audience(briefs.product_of(state), briefs.audience_of(state), briefs.locale_of(state))
    await _save(runtime, "audience.json", as_json(profile))
    return {"audience_profile": profile}


async def copywriting(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Writes the texts in the tone and the language of the brief."""
    await _keep_pace(state)
    copy = write_copy(
        briefs.product_of(state),
        state["audience_profile"],
        briefs.offer_of(state),
        briefs.tone_of(state),
        briefs.locale_of(state),
        briefs.call_to_action_of(state),
        briefs.landing_url_of(state),
    )
    await _save(runtime, "copy.json", as_json(copy))
    return {"campaign_copy": copy}


def art_direction(state: CampaignState) -> CampaignState:
    """Chooses the colours and the motif."""
    product = briefs.product_of(state)
    return {"art": direct_art(product.name, product.description, briefs.brand_of(state))}


async def illustration(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Draws the pictures that need no words: the hero, the mark, and an icon for each benefit."""
    await _keep_pace(state)
    art = state["art"]
    pictures = {"hero": hero(art), "mark": mark(art)}
    pictures |= {f"icon-{theme}": icon(theme) for theme in state["audience_profile"]["themes"]}
    await _save(runtime, "hero.svg", pictures["hero"])
    return {"pictures": pictures}


async def landing_page(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Builds the landing page."""
    await _keep_pace(state)
    page = build_page(state["campaign_copy"], state["art"], state["pictures"])
    await _save(runtime, "index.html", page)
    return {"landing_page": page}


async def email_variants(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Writes the mails; without email among the channels there are none."""
    await _keep_pace(state)
    if not briefs.wants_email(state):
        return {"mails": {}}
    mails = write_mails(state["campaign_copy"], state["art"])
    for name, text in mails.items():
        await _save(runtime, f"email-{name}", text)
    return {"mails": mails}


async def social_variants(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Writes a post and draws a card for each social channel; without such channels there are none."""
    await _keep_pace(state)
    channels = [channel for channel in briefs.channels_of(state) if channel != briefs.EMAIL]
    posts = write_posts(state["campaign_copy"], state["art"], channels)
    for name, text in posts.items():
        await _save(runtime, f"social-{name}", text)
    return {"posts": posts}


def quality_check(state: CampaignState) -> CampaignState:
    """Checks what the other skills made; the report goes into the bundle."""
    return {"quality_report": check_quality(state["art"], state["landing_page"], state["posts"])}


async def bundle(state: CampaignState, runtime: Runtime[RunContext]) -> CampaignState:
    """Packs everything into the zip that the campaign is delivered as."""
    await _keep_pace(state)
    files = {
        "index.html": state["landing_page"],
        "audience.json": as_json(state["audience_profile"]),
        "copy.json": as_json(state["campaign_copy"]),
        "quality-report.json": as_json(state["quality_report"]),
    }
    files |= {f"email/{name}": text for name, text in state["mails"].items()}
    files |= {f"social/{name}": text for name, text in state["posts"].items()}
    # The icons take their colour from the page around them, so they are no use as files.
    files |= {f"pictures/{name}.svg": state["pictures"][name] for name in ("hero", "mark")}
    packed, manifest = pack(files, _brief_of(state), state["campaign_copy"]["locale"])
    await _save(runtime, "manifest.json", as_json(manifest))
    artifact_id = await runtime.context.save_artifact("bundle.zip", packed, media_type_of("bundle.zip"))
    return {"manifest": manifest, "bundle_artifact_id": artifact_id}


def research_key(state: Mapping[str, Any]) -> str:
    """Returns the same key for briefs that audience research finds the same in.

    It is asked before the brief is checked, so the fields may be anything.
    """
    used = {field: state.get(field) for field in ("product", "audience", "locale")}
    return hashlib.sha256(json.dumps(used, sort_keys=True, default=repr).encode()).hexdigest()


def build_graph() -> StateGraph[CampaignState, RunContext, Brief, CampaignState]:
    """Builds the graph; the engine compiles it."""
    # A store that is out of reach for a moment, and nothing that trying again would not change.
    retry = RetryPolicy(initial_interval=0.2, max_attempts=3, jitter=False, retry_on=OSError)
    graph = StateGraph(CampaignState, context_schema=RunContext, input_schema=Brief)
    graph.add_node(
        "audience-research",
        audience_research,
        metadata={"skill_id": "audience-research"},
        cache_policy=CachePolicy(key_func=research_key, ttl=3600),
    )
    graph.add_node("copywriting", copywriting, metadata={"skill_id": "copywriting"})
    graph.add_node("art-direction", art_direction, metadata={"skill_id": "art-direction"})
    graph.add_node("illustration", illustration, metadata={"skill_id": "illustration"})
    graph.add_node("landing-page", landing_page, metadata={"skill_id": "landing-page"}, retry_policy=retry)
    graph.add_node("email-variants", email_variants, metadata={"skill_id": "email-variants"})
    graph.add_node("social-variants", social_variants, metadata={"skill_id": "social-variants"})
    graph.add_node("quality-check", quality_check, metadata={"skill_id": "quality-check"})
    graph.add_node("bundle", bundle, metadata={"skill_id": "bundle"}, retry_policy=retry)

    graph.add_edge(START, "audience-research")
    graph.add_edge("audience-research", "copywriting")
    graph.add_edge("audience-research", "art-direction")
    graph.add_edge("art-direction", "illustration")
    makers = ["landing-page", "email-variants", "social-variants"]
    for maker in makers:
        graph.add_edge(["copywriting", "illustration"], maker)
    graph.add_edge(makers, "quality-check")
    graph.add_edge("quality-check", "bundle")
    graph.add_edge("bundle", END)
    return graph


WORKFLOWS: dict[str, StateGraph[Any, RunContext, Any, Any]] = {"campaign-bundle": build_graph()}


async def _keep_pace(state: CampaignState) -> None:
    await asyncio.sleep(briefs.pace_seconds_of(state))


async def _save(runtime: Runtime[RunContext], name: str, text: str) -> None:
    await runtime.context.save_artifact(name, text.encode(), media_type_of(name))


def _brief_of(state: Mapping[str, Any]) -> dict[str, Any]:
    return {field: state[field] for field in briefs.BRIEF_FIELDS if field in state}
