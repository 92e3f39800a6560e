"""What has to be said in a language, and in each of its tones.

A phrase never inflects what the brief gave: {product} stands where no verb or article has to agree
with it, {audience} only follows "for", and {offer} is a sentence of its own or follows a colon.
Apostrophes are written straight here and become typographic when a phrase is spoken.
"""

from __future__ import annotations

from dataclasses import dataclass

TONES = ("bold", "elegant", "friendly", "plain", "playful")


@dataclass(frozen=True, slots=True)
class Voice:
    """How one tone speaks."""

    headlines: tuple[str, str]
    lede: str
    offer_title: str
    call_to_action: str
    subject_a: str
    subject_b: str
    greeting: str
    opening: str
    closing: str
    post: str


@dataclass(frozen=True, slots=True)
class Language:
    """What every tone of one language shares; a theme is a title and a sentence."""

    og_region: str
    for_audience: str
    counts_for: str
    story_heading: str
    steps_heading: str
    steps: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]
    share_heading: str
    share_text: str
    skip_link: str
    page_navigation: str
    hero_alt: str
    card_alt: str
    team: str
    footer: str
    reply: str
    unsubscribe: str
    link_lead: str
    hashtag: str
    themes: dict[str, tuple[str, str]]
    voices: dict[str, Voice]
