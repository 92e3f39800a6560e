"""What does the landing page look like? One HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from runengine_samples.campaign_bundle.copywriting import Copy, Point, shorten
from runengine_samples.campaign_bundle.phrases import LANGUAGES
from runengine_samples.campaign_bundle.pictures import (
    LOOKS,
    SERIF_FONT,
    SYSTEM_FONT,
    Art,
    card,
    decorative,
    described,
)


def build_page(copy: Copy, art: Art, pictures: Mapping[str, str]) -> str:
    """Builds the page from the copy and the pictures `hero`, `mark` and one `icon-<theme>` a benefit."""
    text = {name: escape(value) for name, value in copy.items() if isinstance(value, str)}
    link = text["link"] or "#offer"
    # The address of a picture inside the page has to survive both the URL and the attribute.
    favicon = "data:image/svg+xml," + quote(pictures["mark"])
    url = f'<meta property="og:url" content="{text["link"]}">\n' if copy["link"] else ""
    button = f'<a class="button" href="{text["link"]}">{text["call_to_action"]}</a>' if copy["link"] else ""
    story = ""
    if copy["story"]:
        story = (
            '<section class="story" aria-labelledby="story-heading"><div class="wrap">'
            f'<h2 id="story-heading">{text["story_heading"]}</h2><p>{text["story"]}</p></div></section>'
        )
    return f"""<!doctype html>
<html lang="{text["locale"]}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="theme-color" media="(prefers-color-scheme: light)" content="{art["light"]["page"]}">
<meta name="theme-color" media="(prefers-color-scheme: dark)" content="{art["dark"]["page"]}">
<title>{escape(shorten(copy["headline"], 70))}</title>
<meta name="description" content="{escape(shorten(copy["preheader"], 155))}">
<meta property="og:type" content="website">
<meta property="og:title" content="{text["headline"]}">
<meta property="og:description" content="{text["preheader"]}">
<meta property="og:site_name" content="{text["product"]}">
<meta property="og:locale" content="{_og_locale(copy)}">
{url}<meta name="twitter:card" content="summary">
<link rel="icon" href="{favicon}">
<style>
{_css(copy, art)}
</style>
</head>
<body>
<a class="skip" href="#content">{text["skip_link"]}</a>
<header class="top"><div class="wrap">
<p class="brand{_long_name(copy["product"])}">{decorative(pictures["mark"])}\
<span>{text["product"]}</span></p>
<nav aria-label="{text["page_navigation"]}">\
<a class="button small" href="{link}">{text["call_to_action"]}</a></nav>
</div></header>
<main id="content">
<section class="hero" aria-labelledby="headline"><div class="wrap">
<div class="words">
<p class="eyebrow">{text["eyebrow"]}</p>
<h1 id="headline"{_size(copy["headline"])}>{text["headline"]}</h1>
<p class="lede">{text["lede"]}</p>
<p class="actions"><a class="button" href="{link}">{text["call_to_action"]}</a></p>
</div>
<div class="picture">{described(pictures["hero"], copy["hero_alt"])}</div>
</div></section>
<section class="benefits" aria-labelledby="benefits-heading"><div class="wrap">
<h2 id="benefits-heading">{text["benefits_heading"]}</h2>
<ul>{"".join(_benefit(point, pictures) for point in copy["benefits"])}</ul>
</div></section>
{story}
<section class="offer" id="offer" aria-labelledby="offer-heading"><div class="wrap"><div class="band">
<h2 id="offer-heading">{text["offer_title"]}</h2>
<p{_size(copy["offer"])}>{text["offer"]}</p>
{button}
</div></div></section>
<section class="steps" aria-labelledby="steps-heading"><div class="wrap">
<h2 id="steps-heading">{text["steps_heading"]}</h2>
<ol>{"".join(_step(point) for point in copy["steps"])}</ol>
</div></section>
<section class="share" aria-labelledby="share-heading"><div class="wrap">
<div class="words"><h2 id="share-heading">{text["share_heading"]}</h2><p>{text["share_text"]}</p></div>
<figure>{card(art, copy, 1200, 630)}</figure>
</div></section>
</main>
<footer><div class="wrap"><p>{text["footer"]}</p><p>{text["team"]}</p></div></footer>
</body>
</html>
"""


def _benefit(point: Point, pictures: Mapping[str, str]) -> str:
    picture = decorative(pictures[f"icon-{point['icon']}"])
    return (
        f'<li><span class="icon">{picture}</span>'
        f"<h3>{escape(point['title'])}</h3><p>{escape(point['text'])}</p></li>"
    )


def _step(point: Point) -> str:
    return f"<li><h3>{escape(point['title'])}</h3><p>{escape(point['text'])}</p></li>"


def _long_name(product: str) -> str:
    return " long" if len(product) > 24 or _longest(product) > 14 else ""


def _size(text: str) -> str:
    # The style makes letters small enough for the longest word, so that it is not broken on a phone.
    return f'{" class=long" if len(text) > 48 else ""} style="--longest:{_longest(text)}"'


def _longest(text: str) -> int:
    return max(len(word) for word in re.split(r"[\s-]", text))


def _og_locale(copy: Copy) -> str:
    language, _, region = copy["locale"].partition("-")
    return f"{language}_{region or LANGUAGES[language].og_region}"


def _css(copy: Copy, art: Art) -> str:
    font, weight, radius = LOOKS[copy["tone"]]

    def variables(scheme: Mapping[str, str]) -> str:
        return "".join(f"--{name.replace('_', '-')}:{colour};" for name, colour in scheme.items())

    # How wide a letter of the heading is, in its own size.
    letter = 0.52 if font == SERIF_FONT else 0.66
    sun, on_sun = art["picture"]["sun"], art["picture"]["on_sun"]
    return f""":root{{color-scheme:light dark;{variables(art["light"])}--radius:{radius}px;
--sun:{sun};--on-sun:{on_sun};--font:{SYSTEM_FONT};--heading:{font}}}
@media (prefers-color-scheme:dark){{:root{{{variables(art["dark"])}}}}}
*,*::before,*::after{{box-sizing:border-box}}
html{{scroll-behavior:smooth;-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--page);color:var(--ink);
font:1.0625rem/1.6 var(--font);overflow-wrap:break-word}}
h1,h2,h3,p,ul,ol,figure{{margin:0;padding:0}}
ul,ol{{list-style:none}}
svg{{display:block;width:100%;height:auto}}
h1,h2,h3{{font-family:var(--heading);font-weight:{weight};line-height:1.12;text-wrap:balance}}
h1{{--size:clamp(2.5rem,1.6rem + 3.6vw,4.5rem);letter-spacing:-.025em;line-height:1.06}}
h1.long{{--size:clamp(1.9rem,1.4rem + 2vw,3rem);line-height:1.12}}
h1,.band p{{font-size:max(1.75rem,min(var(--size),100cqi / var(--longest) / {letter}));hyphens:auto}}
.words,.band{{container-type:inline-size;min-width:0}}
h2{{font-size:clamp(1.7rem,1.3rem + 1.6vw,2.6rem);letter-spacing:-.018em}}
h3{{font-size:1.25rem;letter-spacing:-.005em}}
a{{color:var(--link)}}
:focus-visible{{outline:3px solid var(--link);outline-offset:3px;border-radius:4px}}
.wrap{{width:min(72rem,100% - clamp(2.5rem,8vw,6rem));margin-inline:auto}}
.skip{{position:absolute;left:1rem;top:-4rem;background:var(--surface);padding:.6rem 1rem;z-index:1}}
.skip:focus{{top:1rem}}
.button{{display:inline-block;max-width:100%;padding:.85em 1.6em;border:2px solid var(--link);
border-radius:calc(var(--radius) + 4px);background:var(--primary);color:var(--on-primary);font-weight:650;
line-height:1.25;text-decoration:none;text-align:center;transition:transform .15s ease,box-shadow .15s ease}}
.button:hover{{transform:translateY(-2px);box-shadow:0 10px 24px -12px var(--ink)}}
.button.small{{padding:.55em 1.1em;font-size:.95rem}}
.top{{padding-block:1.1rem}}
.top .wrap{{display:flex;align-items:center;justify-content:space-between;gap:1.25rem}}
.top nav{{flex:0 1 auto}}
.brand{{display:flex;align-items:center;gap:.8rem;font-family:var(--heading);font-weight:{weight};
font-size:1.1rem;line-height:1.2}}
.brand svg{{flex:none;width:2.4rem;height:2.4rem;border-radius:min(var(--radius),.7rem)}}
.brand span{{overflow-wrap:normal}}
.brand.long{{font-size:1rem}}
.brand.long span{{overflow-wrap:anywhere}}
.hero{{padding-block:clamp(1.5rem,4vw,4rem) clamp(4rem,8vw,7rem)}}
.hero .wrap{{display:grid;gap:clamp(2.5rem,6vw,5.5rem);align-items:center}}
.eyebrow{{display:inline-block;margin-bottom:1.3rem;padding:.35em .95em;
border-radius:calc(var(--radius) + 4px);background:var(--sun);color:var(--on-sun);font-size:.95rem;
font-weight:650;line-height:1.35}}
.lede{{margin-top:1.4rem;max-width:34rem;color:var(--muted);font-size:clamp(1.125rem,1rem + .5vw,1.35rem);
text-wrap:pretty}}
.actions{{margin-top:2.1rem}}
.actions .button{{font-size:1.1rem}}
.picture svg,.share svg{{border-radius:var(--radius)}}
.picture{{max-width:36rem}}
.benefits,.share{{background:var(--tint)}}
.benefits,.story,.steps,.share{{padding-block:clamp(4rem,8vw,7rem)}}
.benefits h2,.steps h2{{max-width:24ch}}
.benefits ul,.steps ol{{display:grid;gap:1.25rem;margin-top:clamp(2rem,4vw,3.25rem)}}
.benefits li{{padding:clamp(1.5rem,3vw,2.25rem);border:1px solid var(--line);border-radius:var(--radius);
background:var(--surface)}}
.benefits li p,.steps li p,.share p{{margin-top:.6rem;color:var(--muted)}}
.icon{{display:grid;place-items:center;width:3.5rem;height:3.5rem;margin-bottom:1.5rem;
border-radius:min(var(--radius),1.1rem);background:var(--tint);color:var(--link)}}
.icon svg{{width:1.9rem;height:1.9rem}}
.story .wrap{{display:grid;gap:1.25rem clamp(2.5rem,6vw,5.5rem)}}
.story p{{max-width:38rem;font-size:clamp(1.15rem,1rem + .7vw,1.45rem);line-height:1.5;text-wrap:pretty}}
.benefits + .offer{{padding-top:clamp(4rem,8vw,7rem)}}
.band{{padding:clamp(2.5rem,7vw,5.5rem) clamp(1.5rem,6vw,5rem);border-radius:var(--radius);
background:var(--band);color:var(--on-band);text-align:center}}
.band h2{{font-size:1.15rem;letter-spacing:0;font-weight:600}}
.band p{{max-width:22ch;margin:.9rem auto 0;font-family:var(--heading);font-weight:{weight};
--size:clamp(1.9rem,1.3rem + 2.8vw,3.5rem);line-height:1.12;letter-spacing:-.02em;text-wrap:balance}}
.band p.long{{max-width:34ch;--size:clamp(1.35rem,1.1rem + 1.3vw,2.1rem);line-height:1.25}}
.band .button{{margin-top:2.2rem;border-color:var(--sun);background:var(--sun);
color:var(--on-sun);font-size:1.1rem}}
.band :focus-visible{{outline-color:var(--on-band)}}
.steps ol{{counter-reset:step;gap:2.25rem}}
.steps li{{counter-increment:step;padding-top:1.5rem;border-top:3px solid var(--link)}}
.steps li::before{{content:counter(step);display:block;margin-bottom:.6rem;color:var(--link);
font-family:var(--heading);font-weight:{weight};font-size:2.6rem;line-height:1}}
.share .wrap{{display:grid;gap:2.25rem clamp(2.5rem,6vw,5.5rem);align-items:center}}
.share p{{margin-top:1rem;font-size:1.125rem}}
.share figure{{box-shadow:0 24px 60px -30px #000a;border-radius:var(--radius)}}
footer{{padding-block:2.5rem;color:var(--muted);font-size:.95rem}}
footer .wrap{{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.5rem 2rem}}
@media (max-width:40rem){{.brand.long + nav{{display:none}}}}
@media (min-width:48rem){{
.benefits ul,.steps ol{{grid-template-columns:repeat(3,minmax(0,1fr))}}
.story .wrap{{grid-template-columns:minmax(0,2fr) minmax(0,3fr)}}
.share .wrap{{grid-template-columns:minmax(0,2fr) minmax(0,3fr)}}
}}
@media (min-width:60rem){{
.hero .wrap{{grid-template-columns:minmax(0,1.1fr) minmax(0,1fr)}}
.picture{{justify-self:end;width:100%}}
}}
@media (prefers-reduced-motion:reduce){{html{{scroll-behavior:auto}}.button{{transition:none}}
.button:hover{{transform:none}}}}
@media print{{.top nav,.skip{{display:none}}}}"""
