"""In which colours does the campaign appear, and what do its pictures show?

Every picture is an SVG text of its own: no ids, no fonts to load, no style from outside.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypedDict
from urllib.parse import urlsplit

from runengine_samples.campaign_bundle.copywriting import Copy, seed_of

# WCAG 2 level AA for text of any size.
READABLE = 4.5
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

# Beginnings of words, in all the languages there are phrases for, that tell what a picture can show.
MOTIF_WORDS = {
    "cup": "coffee tea kettle mug cup espresso kaffee tee wasserkocher becher tasse kessel café thé "
    "bouilloire taza té hervidor",
    "plant": "plant garden flower seed tree green herb pflanze garten blume baum kräuter jardin fleur arbre "
    "jardín flor árbol planta",
    "screen": "app apps software platform dashboard cloud website online digital tool program anwendung "
    "logiciel tableau plateforme plataforma herramienta",
    "mountain": "bike hike hiking outdoor travel tent trek mountain ski run boot shoe sport wander reise "
    "zelt berg lauf rad schuh stiefel voyage tente montagne course vélo chaussure viaje tienda "
    "montaña bici bota zapato",
    "lamp": "lamp light furniture home sofa chair desk lampe leuchte licht möbel wohn stuhl schreibtisch "
    "lumière meuble maison chaise bureau lámpara luz mueble casa silla",
    "bowl": "food meal cook kitchen soup snack bread cheese organic essen kochen küche suppe brot käse repas "
    "cuisine soupe pain fromage comida cocina sopa pan queso",
    "book": "book course school learn read study magazine buch kurs schule lernen lesen livre cours école "
    "apprendre libro curso escuela aprender",
}


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
        _, chroma, hue = _oklch(primary)
    else:
        hue, chroma = HUES[seed % len(HUES)], 0.17
        primary = readable(_hex(0.57, chroma, hue), ["#ffffff"])
    # A grey brand gets grey neutrals: a tint would be a colour that it never chose.
    grey = min(1.0, chroma / 0.08)
    deep = _hex(0.31, 0.085 * grey, hue)
    paper = _hex(0.985, 0.008 * grey, hue)
    sun = brand.get("secondary") or (_hex(0.84, 0.15, 85) if _apart(hue, 85) > 45 else _hex(0.83, 0.095, 225))
    coral = brand.get("accent") or _hex(0.70, 0.16, 32 if _apart(hue, 32) > 45 else 290)

    light = {
        "page": _hex(0.988, 0.005 * grey, hue),
        "surface": "#ffffff",
        "tint": _hex(0.958, 0.02 * grey, hue),
        "line": _hex(0.90, 0.02 * grey, hue),
        "ink": _hex(0.23, 0.035 * grey, hue),
        "muted": _hex(0.46, 0.035 * grey, hue),
        "primary": primary,
        "on_primary": most_readable(primary),
        "band": deep,
        "on_band": paper,
    }
    dark = {
        "page": _hex(0.185, 0.02 * grey, hue),
        "surface": _hex(0.235, 0.025 * grey, hue),
        "tint": _hex(0.215, 0.025 * grey, hue),
        "line": _hex(0.33, 0.03 * grey, hue),
        "ink": _hex(0.96, 0.01 * grey, hue),
        "muted": _hex(0.78, 0.025 * grey, hue),
        "primary": primary,
        "on_primary": most_readable(primary),
        "band": _hex(0.31, 0.075 * grey, hue),
        "on_band": paper,
    }
    for scheme in (light, dark):
        scheme["link"] = readable(primary, [scheme["page"], scheme["surface"], scheme["tint"]])
    picture = {
        "deep": deep,
        "main": primary,
        "soft": _hex(0.90, 0.055 * grey, hue),
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
        "motif": _motif(f"{product_name} {description}"),
        "seed": seed,
    }


def contrast(one: str, other: str) -> float:
    """Answers the WCAG contrast ratio of two colours, from 1 to 21."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def most_readable(background: str) -> str:
    """Answers white or black, one of which is readable on any background; white if both are."""
    return "#ffffff" if contrast("#ffffff", background) >= READABLE else "#000000"


def readable(colour: str, backgrounds: Sequence[str]) -> str:
    """Makes the colour darker or lighter, as little as it takes to be readable on all backgrounds."""
    lightness, chroma, hue = _oklch(colour)
    step = -0.01 if _luminance(backgrounds[0]) > 0.18 else 0.01
    while any(contrast(colour, background) < READABLE for background in backgrounds):
        lightness += step
        if not 0 <= lightness <= 1:
            return "#000000" if step < 0 else "#ffffff"
        colour = _hex(lightness, chroma, hue)
    return colour


def hero(art: Art) -> str:
    """Draws the product's motif in the midst of a mosaic that only this product has."""
    shuffled = random.Random(art["seed"])
    column, row = shuffled.choice(((1, 1), (0, 1), (1, 0), (2, 1), (1, 2)))
    place = {(column + x, row + y) for x in (0, 1) for y in (0, 1)}
    tiles = _mosaic(art, 4, 4, 150, leave_out=place)
    motif = (
        f'<g transform="translate({column * 150} {row * 150})">{_MOTIFS[art["motif"]](art["picture"])}</g>'
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

    label = _fit(copy["eyebrow"], space, room * 0.14, 34, 22)
    offer = _fit(copy["offer"], space - 56, room * 0.28, 40, 22)
    place = _fit(urlsplit(copy["link"]).hostname or "", space, 40, 28, 18)
    offer_height = offer.height + 40
    below = offer_height + (place.height + 26 if copy["link"] else 0)
    head = _fit(copy["headline"], space, room - label.height - below - 48, 88, 26)

    offer_width = min(space, offer.width + 56)
    parts = [
        _lines(label, left, top, colours["label"], SYSTEM_FONT, 600),
        _lines(head, left, top + label.height + 18, colours["paper"], font, weight),
        f'<rect x="{left:.0f}" y="{bottom - below:.0f}" width="{offer_width:.0f}" '
        f'height="{offer_height:.0f}" rx="{min(radius, 24)}" fill="{colours["sun"]}"/>',
        _lines(offer, left + 28, bottom - below + 20, colours["on_sun"], SYSTEM_FONT, 700),
    ]
    if copy["link"]:
        parts.append(_lines(place, left, bottom - place.height, colours["paper"], SYSTEM_FONT, 600))
    background = f'<rect width="{width}" height="{height}" fill="{colours["deep"]}"/>'
    return _svg(width, height, background + mosaic + "".join(parts), copy["card_alt"])


def described(svg: str, description: str) -> str:
    """Answers the picture with a description for those who cannot see it."""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def decorative(svg: str) -> str:
    """Answers the picture hidden from screen readers, for text beside it says the same."""
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


def _motif(text: str) -> str:
    words = re.findall(r"\w+", text.lower())
    hits = {
        motif: sum(word.startswith(tuple(beginnings.split())) for word in words)
        for motif, beginnings in MOTIF_WORDS.items()
    }
    best = max(hits, key=lambda motif: hits[motif])
    return best if hits[best] else "gift"


def _scene(colours: Mapping[str, str], ground: str, drawing: str) -> str:
    return f'<rect width="300.8" height="300.8" fill="{colours[ground]}"/>{drawing}'


def _cup(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "soft",
        f'<circle cx="150" cy="140" r="108" fill="{c["sun"]}"/>'
        f'<ellipse cx="146" cy="252" rx="112" ry="14" fill="{c["deep"]}" opacity=".18"/>'
        f'<path d="M196 142h14a38 38 0 0 1 0 76h-26" fill="none" stroke="{c["deep"]}" stroke-width="17"/>'
        f'<path d="M72 122H208V190A58 58 0 0 1 150 248H130A58 58 0 0 1 72 190Z" fill="{c["main"]}"/>'
        f'<path d="M72 122H110V246A58 58 0 0 1 72 190Z" fill="{c["deep"]}" opacity=".22"/>'
        f'<ellipse cx="140" cy="122" rx="68" ry="17" fill="{c["deep"]}"/>'
        f'<g fill="none" stroke="{c["paper"]}" stroke-width="10" stroke-linecap="round">'
        '<path d="M108 88c-14-18 14-26 0-46"/><path d="M142 88c-14-18 14-26 0-46"/>'
        '<path d="M176 88c-14-18 14-26 0-46"/></g>',
    )


def _plant(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "soft",
        f'<circle cx="150" cy="130" r="104" fill="{c["paper"]}"/>'
        f'<ellipse cx="150" cy="264" rx="86" ry="12" fill="{c["deep"]}" opacity=".18"/>'
        f'<path d="M150 196V84" stroke="{c["deep"]}" stroke-width="9" stroke-linecap="round"/>'
        f'<path d="M150 108C104 106 82 78 80 40C126 42 150 66 150 108Z" fill="{c["main"]}"/>'
        f'<path d="M150 136C150 92 176 70 222 66C222 112 196 136 150 136Z" fill="{c["deep"]}"/>'
        f'<path d="M150 178C112 180 84 160 76 126C116 122 148 140 150 178Z" fill="{c["sun"]}"/>'
        f'<path d="M150 188C152 156 178 142 212 148C208 178 184 194 150 188Z" fill="{c["main"]}"/>'
        f'<path d="M92 188H208L196 262H104Z" fill="{c["coral"]}"/>'
        f'<rect x="82" y="180" width="136" height="26" rx="6" fill="{c["deep"]}"/>',
    )


def _screen(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "main",
        f'<circle cx="236" cy="66" r="44" fill="{c["sun"]}"/>'
        f'<rect x="36" y="64" width="228" height="172" rx="16" fill="{c["deep"]}"/>'
        f'<rect x="46" y="96" width="208" height="130" rx="8" fill="{c["paper"]}"/>'
        f'<g fill="{c["coral"]}"><circle cx="58" cy="80" r="5.5"/></g>'
        f'<g fill="{c["sun"]}"><circle cx="75" cy="80" r="5.5"/></g>'
        f'<g fill="{c["soft"]}"><circle cx="92" cy="80" r="5.5"/></g>'
        f'<rect x="62" y="112" width="76" height="12" rx="6" fill="{c["deep"]}"/>'
        f'<rect x="62" y="134" width="52" height="8" rx="4" fill="{c["soft"]}"/>'
        f'<g fill="{c["soft"]}"><rect x="62" y="158" width="24" height="52" rx="4"/></g>'
        f'<g fill="{c["sun"]}"><rect x="94" y="142" width="24" height="68" rx="4"/></g>'
        f'<g fill="{c["coral"]}"><rect x="126" y="168" width="24" height="42" rx="4"/></g>'
        f'<circle cx="202" cy="162" r="36" fill="{c["soft"]}"/>'
        f'<path d="M202 162V126A36 36 0 0 1 233 180Z" fill="{c["deep"]}"/>',
    )


def _mountain(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "soft",
        f'<circle cx="206" cy="92" r="50" fill="{c["sun"]}"/>'
        f'<path d="M0 300V214L96 92L196 214L244 160L300.8 222V300.8H0Z" fill="{c["main"]}"/>'
        f'<path d="M96 92L130 133L112 148L96 132L78 150L61 136Z" fill="{c["paper"]}"/>'
        f'<path d="M0 300.8V250C60 222 110 232 160 252S254 276 300.8 240V300.8Z" fill="{c["deep"]}"/>'
        f'<path d="M150 300.8C150 276 196 282 184 262" fill="none" stroke="{c["sun"]}" stroke-width="7" '
        'stroke-linecap="round" stroke-dasharray="14 12"/>'
        f'<path d="M56 250L72 206L88 250ZM60 228L72 192L84 228Z" fill="{c["deep"]}"/>',
    )


def _lamp(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "main",
        f'<path d="M112 128L40 262H260L188 128Z" fill="{c["sun"]}" opacity=".55"/>'
        f'<rect x="0" y="256" width="300.8" height="44.8" fill="{c["deep"]}"/>'
        f'<path d="M150 0V58" stroke="{c["deep"]}" stroke-width="7"/>'
        f'<path d="M78 132A72 74 0 0 1 222 132Z" fill="{c["coral"]}"/>'
        f'<path d="M78 132A72 74 0 0 1 122 65C110 88 106 110 106 132Z" fill="{c["deep"]}" opacity=".2"/>'
        f'<path d="M122 132a28 22 0 0 0 56 0Z" fill="{c["paper"]}"/>'
        f'<path d="M74 196H226V212H74ZM92 212H106V258H92ZM194 212H208V258H194Z" fill="{c["deep"]}"/>'
        f'<path d="M168 196v-30h26v30Z" fill="{c["coral"]}"/>'
        f'<path d="M104 196v-12h48v12ZM110 184v-12h36v12Z" fill="{c["paper"]}"/>',
    )


def _bowl(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "soft",
        f'<circle cx="150" cy="150" r="112" fill="{c["paper"]}"/>'
        f'<ellipse cx="150" cy="256" rx="82" ry="11" fill="{c["deep"]}" opacity=".18"/>'
        f'<path d="M212 158L258 46" stroke="{c["deep"]}" stroke-width="8" stroke-linecap="round"/>'
        f'<path d="M194 158L228 38" stroke="{c["deep"]}" stroke-width="8" stroke-linecap="round"/>'
        f'<circle cx="104" cy="138" r="30" fill="{c["coral"]}"/>'
        f'<circle cx="152" cy="122" r="34" fill="{c["sun"]}"/>'
        f'<circle cx="196" cy="142" r="26" fill="{c["main"]}"/>'
        f'<path d="M120 128C104 92 118 66 146 56C156 88 146 112 120 128Z" fill="{c["main"]}"/>'
        f'<path d="M52 150H248A98 98 0 0 1 188 240H112A98 98 0 0 1 52 150Z" fill="{c["deep"]}"/>'
        f'<path d="M70 186H230A98 98 0 0 1 222 202H78A98 98 0 0 1 70 186Z" fill="{c["sun"]}"/>'
        f'<rect x="112" y="238" width="76" height="16" rx="5" fill="{c["main"]}"/>',
    )


def _book(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "sun",
        f'<circle cx="150" cy="112" r="78" fill="{c["paper"]}"/>'
        f'<path d="M150 36L162 86L212 98L162 110L150 160L138 110L88 98L138 86Z" fill="{c["coral"]}"/>'
        f'<path d="M28 156H272V262H28Z" fill="{c["deep"]}"/>'
        f'<path d="M150 176C122 152 82 146 42 150V244C82 240 122 246 150 266Z" fill="{c["paper"]}"/>'
        f'<path d="M150 176C178 152 218 146 258 150V244C218 240 178 246 150 266Z" fill="{c["soft"]}"/>'
        f'<g fill="none" stroke="{c["main"]}" stroke-width="7" stroke-linecap="round">'
        '<path d="M64 176c22 0 42 4 62 14"/><path d="M64 200c22 0 42 4 62 14"/>'
        '<path d="M236 176c-22 0-42 4-62 14"/><path d="M236 200c-22 0-42 4-62 14"/></g>',
    )


def _gift(c: Mapping[str, str]) -> str:
    return _scene(
        c,
        "soft",
        f'<circle cx="150" cy="146" r="112" fill="{c["paper"]}"/>'
        f'<ellipse cx="150" cy="262" rx="100" ry="12" fill="{c["deep"]}" opacity=".18"/>'
        f'<path d="M148 104C112 100 88 84 96 60C106 36 144 60 150 104Z" fill="{c["coral"]}"/>'
        f'<path d="M152 104C188 100 212 84 204 60C194 36 156 60 150 104Z" fill="{c["sun"]}"/>'
        f'<rect x="72" y="140" width="156" height="118" fill="{c["main"]}"/>'
        f'<rect x="72" y="140" width="156" height="16" fill="{c["deep"]}" opacity=".25"/>'
        f'<rect x="60" y="102" width="180" height="42" rx="6" fill="{c["deep"]}"/>'
        f'<rect x="134" y="102" width="32" height="156" fill="{c["sun"]}"/>'
        f'<g fill="{c["coral"]}"><circle cx="54" cy="82" r="8"/><circle cx="238" cy="66" r="6"/></g>'
        f'<g fill="{c["main"]}"><circle cx="72" cy="46" r="6"/><circle cx="252" cy="92" r="8"/></g>',
    )


_MOTIFS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "cup": _cup,
    "plant": _plant,
    "screen": _screen,
    "mountain": _mountain,
    "lamp": _lamp,
    "bowl": _bowl,
    "book": _book,
    "gift": _gift,
}

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


class _Block:
    """Lines of text at a size; the measures are estimates, as SVG has no fonts to ask."""

    def __init__(self, lines: list[str], size: float) -> None:
        self.lines, self.size = lines, size
        self.width = max((_width(line, size) for line in lines), default=0.0)
        self.height = len(lines) * size * 1.16


def _fit(text: str, width: float, height: float, largest: float, smallest: float) -> _Block:
    size = largest
    while True:
        lines = _wrap(text, width, size)
        fitting = max(1, int(height / (size * 1.16)))
        if len(lines) <= fitting and (size <= smallest or not _breaks_words(text, width, size)):
            return _Block(lines, size)
        if size <= smallest:
            break
        size = max(smallest, size - 2)
    last = lines[fitting - 1]
    while last and _width(last + "…", size) > width:
        last = last[:-1]
    return _Block([*lines[: fitting - 1], last.rstrip(" ,;:-") + "…"], size)


def _breaks_words(text: str, width: float, size: float) -> bool:
    return any(_width(word, size) > width for word in text.split(" "))


def _wrap(text: str, width: float, size: float) -> list[str]:
    lines = [""]
    # At plain spaces only: a no-break space keeps a question mark with its question.
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if _width(joined, size) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and _width(lines[-1] + char, size) > width:
                lines.append("")
            lines[-1] += char
    return lines


def _width(text: str, size: float) -> float:
    # Bold letters of the widest system font, so that no reader's font makes a line too long.
    units = 0.0
    for char in text:
        if ord(char) > 0x2E7F:
            units += 1.1
        elif char in "iIljt.,:;!'|() ":
            units += 0.4
        elif char in "mwMW@%&":
            units += 1.05
        elif char.isupper():
            units += 0.8
        else:
            units += 0.7
    return units * size


def _lines(block: _Block, x: float, y: float, colour: str, font: str, weight: int) -> str:
    spans = "".join(
        f'<tspan x="{x:.0f}" y="{y + block.size * (0.9 + 1.16 * number):.0f}">{escape(line)}</tspan>'
        for number, line in enumerate(block.lines)
    )
    return (
        f'<text font-family="{escape(font)}" font-size="{block.size:.0f}" font-weight="{weight}" '
        f'fill="{colour}">{spans}</text>'
    )


def _apart(hue: float, other: float) -> float:
    return abs((hue - other + 180) % 360 - 180)


def _luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))

    def straight(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    return straight(red), straight(green), straight(blue)


def _oklch(colour: str) -> tuple[float, float, float]:
    """Takes a colour apart into lightness, chroma and hue as OKLCH has them, equal steps to the eye."""
    red, green, blue = _linear(colour)
    long = math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    middle = math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    lightness = 0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short
    a = 1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short
    b = 0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short
    return lightness, math.hypot(a, b), math.degrees(math.atan2(b, a)) % 360


def _hex(lightness: float, chroma: float, hue: float) -> str:
    """Puts a colour together from OKLCH, with less chroma where the screen has no such colour."""
    while True:
        a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        parts = (
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
        )
        if chroma <= 0 or all(-0.001 <= part <= 1.001 for part in parts):
            return "#" + "".join(f"{round(_screen_part(part) * 255):02x}" for part in parts)
        chroma = max(0.0, chroma - 0.004)


def _screen_part(part: float) -> float:
    part = min(1.0, max(0.0, part))
    return part * 12.92 if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055
