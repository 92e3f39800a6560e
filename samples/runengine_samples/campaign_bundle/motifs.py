"""What does the picture of a product show?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

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


def choose_motif(text: str) -> str:
    """Returns the motif that the words of the text point to most."""
    words = re.findall(r"\w+", text.lower())
    hits = {
        motif: sum(word.startswith(tuple(beginnings.split())) for word in words)
        for motif, beginnings in MOTIF_WORDS.items()
    }
    best = max(hits, key=lambda motif: hits[motif])
    return best if hits[best] else "gift"


def draw_motif(motif: str, colours: Mapping[str, str]) -> str:
    """Returns the content of an SVG of 300 by 300, in the colours of a campaign's pictures."""
    return _MOTIFS[motif](colours)


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
