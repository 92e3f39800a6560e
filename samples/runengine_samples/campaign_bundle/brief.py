"""What is in a brief, and is it right? Every skill reads the fields it needs through here.

The brief is the run's trigger payload, so any field may be absent or of any JSON type.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urlsplit

from runengine_samples.campaign_bundle.phrases import LANGUAGES, TONES


class BriefError(ValueError):
    """The brief lacks something or has something wrong; the message says what would be right."""


class Brief(TypedDict, total=False):
    """The fields of a brief as they come from JSON, unchecked.

    `paceSeconds` is for demos: every asynchronous skill waits that long before it starts.
    """

    product: Any
    audience: Any
    channels: Any
    tone: Any
    offer: Any
    locale: Any
    brand: Any
    callToAction: Any
    landingUrl: Any
    paceSeconds: Any


BRIEF_FIELDS = tuple(Brief.__annotations__)


class Product(NamedTuple):
    """What is advertised."""

    name: str
    description: str


class Locale(NamedTuple):
    """`tag` is what the brief asks for, such as de-AT; `language` is the phrase table it gets, de."""

    tag: str
    language: str


class Channel(NamedTuple):
    """What a social platform allows in a post, and the size of picture it shows uncropped."""

    text_limit: int
    card_width: int
    card_height: int


SOCIAL_CHANNELS = {
    "bluesky": Channel(300, 1200, 630),
    "facebook": Channel(2000, 1200, 630),
    "instagram": Channel(2200, 1080, 1080),
    "linkedin": Channel(3000, 1200, 630),
    "mastodon": Channel(500, 1200, 630),
    "pinterest": Channel(500, 1000, 1500),
    "threads": Channel(500, 1080, 1080),
    "tiktok": Channel(2200, 1080, 1920),
    "x": Channel(280, 1200, 675),
}
EMAIL = "email"
BRAND_COLOURS = ("primary", "secondary", "accent")


def product_of(brief: Mapping[str, Any]) -> Product:
    """Returns the product; its name alone, as plain text, will do."""
    example = '{"name": "Solar Kettle", "description": "Boils water with sunlight."}'
    product = brief.get("product")
    if isinstance(product, str):
        product = {"name": product}
    if product is None:
        raise BriefError(f"The brief has no `product`: give its name, such as {example}.")
    if not isinstance(product, Mapping):
        raise BriefError(f"`product` must be an object, not {_kind(product)}: such as {example}.")
    _refuse_unknown(product, "product", ("name", "description"))
    name = _text(product, "name", 120, 'the name on the box, such as "Solar Kettle"', "product.")
    description = _optional_text(product, "description", 600, "one or two sentences", "product.")
    return Product(name, description)


def audience_of(brief: Mapping[str, Any]) -> str:
    """Returns whom the campaign is for, in words that follow "for"."""
    return _text(brief, "audience", 160, 'say whom the campaign is for, such as "busy parents"')


def offer_of(brief: Mapping[str, Any]) -> str:
    """Returns what the audience gets."""
    return _text(brief, "offer", 240, 'give one sentence, such as "20 % off until Sunday"')


def tone_of(brief: Mapping[str, Any]) -> str:
    """Returns one of the tones there are phrases for."""
    known = ", ".join(sorted(TONES))
    tone = _text(brief, "tone", 40, f"choose one of {known}").lower()
    if tone not in TONES:
        raise BriefError(f'`tone` is "{tone}", and there are no phrases for that: choose one of {known}.')
    return tone


def locale_of(brief: Mapping[str, Any]) -> Locale:
    """Returns the locale, where a region without phrases of its own falls back to its language."""
    known = ", ".join(sorted(LANGUAGES))
    asked = _text(brief, "locale", 40, f"choose one of {known}, with a region if you like, such as de-AT")
    match = re.fullmatch(r"([a-z]{2,3})(?:[-_]([a-z]{2}|[0-9]{3}))?", asked.lower())
    if not match or match[1] not in LANGUAGES:
        raise BriefError(
            f'`locale` is "{asked}", and there are no phrases for that: '
            f"choose one of {known}, with a region if you like, such as de-AT."
        )
    language, region = match[1], match[2]
    return Locale(f"{language}-{region.upper()}" if region else language, language)


def channels_of(brief: Mapping[str, Any]) -> list[str]:
    """Returns the channels, each once, in the order of the brief."""
    known = ", ".join((EMAIL, *SOCIAL_CHANNELS))
    channels = brief.get("channels")
    if channels is None:
        raise BriefError(f"The brief has no `channels`: list at least one of {known}.")
    if not isinstance(channels, list | tuple):
        raise BriefError(f'`channels` must be a list, not {_kind(channels)}: such as ["email", "instagram"].')
    if not channels:
        raise BriefError(f"`channels` is empty: list at least one of {known}.")
    names: list[str] = []
    for channel in channels:
        if not isinstance(channel, str):
            raise BriefError(f"`channels` must list names, not {_kind(channel)}: choose from {known}.")
        name = _clean(channel).lower()
        if name != EMAIL and name not in SOCIAL_CHANNELS:
            raise BriefError(f'`channels` has "{_excerpt(name)}", which is not known: choose from {known}.')
        names.append(name)
    return list(dict.fromkeys(names))


def wants_email(brief: Mapping[str, Any]) -> bool:
    """Returns whether email is among the channels, whatever else may be wrong with them."""
    channels = brief.get("channels")
    return isinstance(channels, list | tuple) and any(
        isinstance(channel, str) and _clean(channel).lower() == EMAIL for channel in channels
    )


def brand_of(brief: Mapping[str, Any]) -> dict[str, str]:
    """Returns the brand colours that are given, as #rrggbb in lower case."""
    brand = brief.get("brand")
    if brand is None:
        return {}
    example = '{"primary": "#0a7d5a"}'
    if not isinstance(brand, Mapping):
        raise BriefError(f"`brand` must be an object, not {_kind(brand)}: such as {example}.")
    _refuse_unknown(brand, "brand", BRAND_COLOURS)
    colours: dict[str, str] = {}
    for name in BRAND_COLOURS:
        colour = _optional_text(brand, name, 40, "a hex colour, such as #0a7d5a", "brand.").lower()
        if not colour:
            continue
        if re.fullmatch("#[0-9a-f]{3}", colour):
            colour = "#" + "".join(digit * 2 for digit in colour[1:])
        if not re.fullmatch("#[0-9a-f]{6}", colour):
            raise BriefError(f'`brand.{name}` is "{colour}": give a hex colour, such as #0a7d5a.')
        colours[name] = colour
    if colours and "primary" not in colours:
        raise BriefError(f"`brand` has no `primary`: give the main colour too, such as {example}.")
    return colours


def call_to_action_of(brief: Mapping[str, Any]) -> str:
    """Returns the words on the button, or nothing where the tone's own will do."""
    return _optional_text(brief, "callToAction", 40, 'a few words for a button, such as "Try it now"')


def landing_url_of(brief: Mapping[str, Any]) -> str:
    """Returns where the buttons lead, or nothing where there is no such place."""
    wanted = 'a web address, such as "https://example.com/kettle"'
    url = _optional_text(brief, "landingUrl", 2000, wanted)
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s<>\"'\\^`{|}]", url):
        raise BriefError(f'`landingUrl` is "{_excerpt(url)}": give {wanted}.')
    return url


def pace_seconds_of(brief: Mapping[str, Any]) -> float:
    """Returns how long each asynchronous skill waits before it starts; by default not at all."""
    pace = brief.get("paceSeconds")
    if pace is None:
        return 0.0
    if isinstance(pace, bool) or not isinstance(pace, int | float):
        raise BriefError(f"`paceSeconds` must be a number from 0 to 10, not {_kind(pace)}.")
    if not 0 <= pace <= 10:
        raise BriefError(f"`paceSeconds` is {pace}: give a number from 0 to 10.")
    return float(pace)


def _text(fields: Mapping[str, Any], name: str, limit: int, wanted: str, inside: str = "") -> str:
    text = _optional_text(fields, name, limit, wanted, inside)
    if text:
        return text
    if fields.get(name) is not None:
        raise BriefError(f"`{inside}{name}` is empty: {wanted}.")
    raise BriefError(f"The brief has no `{inside}{name}`: {wanted}.")


def _optional_text(fields: Mapping[str, Any], name: str, limit: int, wanted: str, inside: str = "") -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BriefError(f"`{inside}{name}` must be text, not {_kind(value)}: {wanted}.")
    text = _clean(value)
    if len(text) > limit:
        raise BriefError(f"`{inside}{name}` has {len(text)} characters: use at most {limit}.")
    return text


def _clean(text: str) -> str:
    # Control characters and lone surrogates are allowed in JSON but not in XML, mail subjects or UTF-8.
    kept = (char if unicodedata.category(char) not in ("Cc", "Cs", "Cn") else " " for char in text)
    return " ".join("".join(kept).split())


def _refuse_unknown(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> None:
    for field in fields:
        if field not in known:
            raise BriefError(f"`{name}` has `{_excerpt(field)}`: only {' and '.join(known)} are known.")


def _excerpt(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "an object"
