"""In which colours does the campaign appear, and what do its pictures show?

Every picture is an SVG text of its own: no ids, no fonts to load, no style from outside.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from html import escape
from typing import TypedDict
from urllib.parse import urlsplit

from runengine_samples.campaign_bundle.colours import apart, as_hex, most_readable, oklch, readable
from runengine_samples.campaign_bundle.copywriting import Copy, seed_of
from runengine_samples.campaign_bundle.lettering import fit, lines_of
from runengine_samples.campaign_bundle.motifs import choose_motif, draw_motif

SYSTEM_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
SERIF_FONT = "'Iowan Old Style', 'Palatino Linotype', Palatino, 'Book Antiqua', Georgia, serif"
ROUND_FONT = f"ui-rounded, 'SF Pro Rounded', 'Hiragino Maru Gothic ProN', Quicksand, {SYSTEM_FONT}"

# How a tone looks: the font of its headings, their weight, and how round corners are.
LOOKS = {
    "bold": (SYSTEM_FONT, 850, 6),
    "elegant": (SERIF_FONT, 500, 2),
    "friendly": (SYSTEM_FONT, 750, 22),
    "plain": (SYSTEM_FONT, 650, 10),
    "playful": (ROUND_FONT, 800, 32),
}

HUES = (20, 45, 145, 175, 215, 255, 285, 345)


class Art(TypedDict):
    """The look of a campaign. `light`, `dark` and `picture` map the parts of each to #rrggbb."""

    light: dict[str, str]
    dark: dict[str, str]
    picture: dict[str, str]
    motif: str
    seed: int


# Which colour is written on which: what has to be readable, and what the contrast is checked for.
TEXT_ON_PAGE = (
    ("ink", "page"),
    ("ink", "surface"),
    ("ink", "tint"),
    ("muted", "page"),
    ("muted", "surface"),
    ("muted", "tint"),
    ("link", "page"),
    ("link", "surface"),
    ("link", "tint"),
    ("on_primary", "primary"),
    ("on_band", "band"),
)
TEXT_ON_PICTURE = (("paper", "deep"), ("on_sun", "sun"), ("label", "deep"))


def direct_art(product_name: str, description: str, brand: Mapping[str, str]) -> Art:
    """Chooses colours around the brand's, or around a hue that the product's name stands for."""
    seed = seed_of("art", product_name)
    if "primary" in brand:
        primary = brand["primary"]
        _, chroma, hue = oklch(primary)
    else:
        hue, chroma = HUES[seed % len(HUES)], 0.17
        primary = readable(as_hex(0.57, chroma, hue), ["#ffffff"])
    # A grey brand gets grey neutrals: a tint would be a colour that it never chose.
    grey = min(1.0, chroma / 0.08)
    deep = as_hex(0.31, 0.085 * grey, hue)
    paper = as_hex(0.985, 0.008 * grey, hue)
    yellow_or_blue = as_hex(0.84, 0.15, 85) if apart(hue, 85) > 45 else as_hex(0.83, 0.095, 225)
    sun = brand.get("secondary") or yellow_or_blue
    coral = brand.get("accent") or as_hex(0.70, 0.16, 32 if apart(hue, 32) > 45 else 290)

    light = {
        "page": as_hex(0.988, 0.005 * grey, hue),
        "surface": "#ffffff",
        "tint": as_hex(0.958, 0.02 * grey, hue),
        "line": as_hex(0.90, 0.02 * grey, hue),
        "ink": as_hex(0.23, 0.035 * grey, hue),
        "muted": as_hex(0.46, 0.035 * grey, hue),
        "primary": primary,
        "on_primary": most_readable(primary),
        "band": deep,
        "on_band": paper,
    }
    dark = {
        "page": as_hex(0.185, 0.02 * grey, hue),
        "surface": as_hex(0.235, 0.025 * grey, hue),
        "tint": as_hex(0.215, 0.025 * grey, hue),
        "line": as_hex(0.33, 0.03 * grey, hue),
        "ink": as_hex(0.96, 0.01 * grey, hue),
        "muted": as_hex(0.78, 0.025 * grey, hue),
        "primary": primary,
        "on_primary": most_readable(primary),
        "band": as_hex(0.31, 0.075 * grey, hue),
        "on_band": paper,
    }
    for scheme in (light, dark):
        scheme["link"] = readable(primary, [scheme["page"], scheme["surface"], scheme["tint"]])
    picture = {
        "deep": deep,
        "main": primary,
        "soft": as_hex(0.90, 0.055 * grey, hue),
        "sun": sun,
        "coral": coral,
        "paper": paper,
        "on_sun": most_readable(sun),
        "label": readable(sun, [deep]),
    }
    return {
        "light": light,
        "dark": dark,
        "picture": picture,
        "motif": choose_motif(f"{product_name} {description}"),
        "seed": seed,
    }


def hero(art: Art) -> str:
    """Draws the product's motif in the midst of a mosaic that only this product has."""
    shuffled = random.Random(art["seed"])
    column, row = shuffled.choice(((1, 1), (0, 1), (1, 0), (2, 1), (1, 2)))
    place = {(column + x, row + y) for x in (0, 1) for y in (0, 1)}
    tiles = _mosaic(art, 4, 4, 150, leave_out=place)
    motif = (
        f'<g transform="translate({column * 150} {row * 150})">{draw_motif(art["motif"], art["picture"])}</g>'
    )
    return _svg(600, 600, tiles + motif)


def mark(art: Art) -> str:
    """Draws the small sign that stands next to the product's name."""
    return _svg(80, 80, _mosaic(art, 2, 2, 40))


def icon(theme: str) -> str:
    """Draws the icon of a theme in the colour of the text around it."""
    return _svg(
        48,
        48,
        '<g fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" '
        f'stroke-linejoin="round">{_ICONS[theme]}</g>',
    )


def card(art: Art, copy: Copy, width: int, height: int) -> str:
    """Draws the card for a post: a mosaic, and beside or below it whom it is for, what, and the offer."""
    colours = art["picture"]
    if width > height:
        tile = height / 3
        mosaic = f'<g transform="translate({width - 2 * tile:.0f} 0)">{_mosaic(art, 2, 3, tile)}</g>'
        left, top, right, bottom = 64.0, 60.0, width - 2 * tile - 56, height - 56.0
    else:
        tile = width / 4
        rows = round(height * (0.55 if height > 1.3 * width else 0.4) / tile)
        mosaic = _mosaic(art, 4, rows, tile)
        left, top, right, bottom = 72.0, rows * tile + 64, width - 72.0, height - 64.0
    space, room = right - left, bottom - top
    font, weight, radius = LOOKS[copy["tone"]]

    label = fit(copy["eyebrow"], space, room * 0.14, 34, 22)
    offer = fit(copy["offer"], space - 56, room * 0.28, 40, 22)
    place = fit(urlsplit(copy["link"]).hostname or "", space, 40, 28, 18)
    offer_height = offer.height + 40
    below = offer_height + (place.height + 26 if copy["link"] else 0)
    head = fit(copy["headline"], space, room - label.height - below - 48, 88, 26)

    offer_width = min(space, offer.width + 56)
    parts = [
        lines_of(label, left, top, colours["label"], SYSTEM_FONT, 600),
        lines_of(head, left, top + label.height + 18, colours["paper"], font, weight),
        f'<rect x="{left:.0f}" y="{bottom - below:.0f}" width="{offer_width:.0f}" '
        f'height="{offer_height:.0f}" rx="{min(radius, 24)}" fill="{colours["sun"]}"/>',
        lines_of(offer, left + 28, bottom - below + 20, colours["on_sun"], SYSTEM_FONT, 700),
    ]
    if copy["link"]:
        parts.append(lines_of(place, left, bottom - place.height, colours["paper"], SYSTEM_FONT, 600))
    background = f'<rect width="{width}" height="{height}" fill="{colours["deep"]}"/>'
    return _svg(width, height, background + mosaic + "".join(parts), copy["card_alt"])


def described(svg: str, description: str) -> str:
    """Returns the picture with a description for those who cannot see it."""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def decorative(svg: str) -> str:
    """Returns the picture hidden from screen readers, for text beside it says the same."""
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _svg(width: int, height: int, content: str, description: str = "") -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{content}</svg>'
    return described(svg, description) if description else svg


def _mosaic(
    art: Art, columns: int, rows: int, tile: float, leave_out: set[tuple[int, int]] | None = None
) -> str:
    shuffled = random.Random(art["seed"] + columns * 100 + rows)
    colours = art["picture"]
    # Each ground with the shapes that stand out from it.
    pairs = (
        ("deep", "sun"),
        ("soft", "main"),
        ("main", "paper"),
        ("sun", "deep"),
        ("coral", "soft"),
        ("soft", "coral"),
        ("deep", "soft"),
        ("main", "sun"),
        ("soft", "deep"),
    )
    tiles = []
    grounds: dict[tuple[int, int], str] = {}
    last_shape = -1
    for row in range(rows):
        for column in range(columns):
            beside = {grounds.get((column - 1, row)), grounds.get((column, row - 1))}
            ground, figure = shuffled.choice([pair for pair in pairs if pair[0] not in beside])
            grounds[column, row] = ground
            shape = shuffled.choice([n for n in range(len(_TILES)) if n != last_shape])
            last_shape = shape
            turn = shuffled.choice((0, 90, 180, 270))
            if leave_out and (column, row) in leave_out:
                continue
            # Ground and figure reach a little into the tiles beside, or hairlines would show between them.
            tiles.append(
                f'<g transform="translate({column * tile:g} {row * tile:g}) scale({tile / 100:g})">'
                f'<rect width="100.6" height="100.6" fill="{colours[ground]}"/>'
                f'<g transform="rotate({turn} 50 50)" fill="{colours[figure]}" '
                f'stroke="{colours[figure]}" stroke-width=".8">{_TILES[shape]}</g></g>'
            )
    return "".join(tiles)


_TILES = (
    '<path d="M0 0A100 100 0 0 1 100 100H0Z"/>',
    '<path d="M0 0A100 100 0 0 1 100 100A100 100 0 0 1 0 0Z"/>',
    '<path d="M0 50A50 50 0 0 1 100 50ZM0 100A50 50 0 0 1 100 100Z"/>',
    '<circle cx="50" cy="50" r="34"/>',
    '<g fill="none" stroke-width="11"><circle cx="50" cy="50" r="38"/><circle cx="50" cy="50" r="16"/></g>',
    '<path d="M0 0H100L0 100Z"/>',
    "".join(f'<circle cx="{x}" cy="{y}" r="7"/>' for x in (20, 50, 80) for y in (20, 50, 80)),
    '<path d="M0 8H100V24H0ZM0 42H100V58H0ZM0 76H100V92H0Z"/>',
    '<path d="M0 0A50 50 0 0 0 50 50A50 50 0 0 0 0 100ZM100 0A50 50 0 0 1 50 50A50 50 0 0 1 100 100Z"/>',
    '<path d="M0 0A100 100 0 0 0 100 100V62A62 62 0 0 1 38 0Z"/>',
    '<path d="M50 12L61 39L88 50L61 61L50 88L39 61L12 50L39 39Z"/>',
)


_ICONS = {
    "time": '<circle cx="24" cy="24" r="18"/><path d="M24 13v11l8 5"/>',
    "ease": '<path d="M26 5L10 27h12l-2 16 18-24H25z"/>',
    "quality": '<circle cx="24" cy="18" r="13"/><path d="M16 29l-3 14 11-6 11 6-3-14M19 18l4 4 7-8"/>',
    "planet": '<path d="M8 41C10 17 22 7 41 7c0 20-10 32-27 28M8 41c4-10 11-17 20-21"/>',
    "savings": '<path d="M6 6h17l19 19-17 17L6 23z"/><circle cx="15.5" cy="15.5" r="3"/>',
    "health": '<path d="M24 42C6 30 4 19 8 12.5c4-6 13-5 16 2 3-7 12-8 16-2 4 6.5 2 17.5-16 29.5z"/>',
    "joy": '<circle cx="24" cy="24" r="18"/><path d="M15 27c2 5 5 8 9 8s7-3 9-8M17 18v1M31 18v1"/>',
    "safety": '<path d="M24 5l16 6v12c0 10-6 16-16 20C14 39 8 33 8 23V11zM17 24l5 5 9-10"/>',
    "together": '<circle cx="17" cy="16" r="8"/><path d="M4 41c0-9 5-14 13-14s13 5 13 14M31 9a8 8 0 0 1 0 14'
    'M35 28c6 2 9 6 9 13"/>',
}
