"""What does the campaign say, and to whom?"""

from __future__ import annotations

import hashlib
import re
from typing import TypedDict

from runengine_samples.campaign_bundle.brief import Locale, Product
from runengine_samples.campaign_bundle.phrases import LANGUAGES

# Beginnings of words, in all the languages there are phrases for, that tell what people care about.
THEME_WORDS = {
    "time": "busy quick fast hurry time commut schnell zeit eilig berufst pendl rapid vite press temps "
    "pendul rápid tiempo prisa ocupad",
    "ease": "easy simple beginner senior starter software tool einfach leicht anfäng facile simpl débutant "
    "logiciel outil fácil sencill principiant herramienta",
    "quality": "quality premium craft handmade design leather wood qualität handwerk handgemacht leder holz "
    "qualité artisan cuir bois calidad artesan cuero madera luxury luxus luxe lujo",
    "planet": "green eco sustain organic solar recycl climate planet vegan nachhalt bio öko klima umwelt "
    "recyc durable écolo climat sostenible ecológ orgánic",
    "savings": "student budget cheap saving price value famil sparen günstig preis étudiant économ prix "
    "estudiante ahorr precio barat",
    "health": "health sport fitness run yoga sleep bike cycl outdoor gesund lauf schlaf rad santé forme "
    "course vélo sommeil salud deport bici sueño",
    "joy": "kid child toy game music party chocolate coffee gift kinder spiel musik kaffee geschenk enfant "
    "jeu musique café cadeau niñ jueg música regalo",
    "safety": "safe secur trust insur bank data privacy business compan enterprise sicher vertrau versicher "
    "daten unternehm firma sûr assur confiance entreprise segur confianza empresa datos",
    "together": "team friend famil parent communit club couple neighbour freund eltern gemeinsch verein paar "
    "nachbar ami équipe voisin amig padres equipo comunidad vecin",
}


class AudienceProfile(TypedDict):
    """What the audience cares about: three themes, each with the words of the brief that point to it."""

    audience: str
    locale: str
    summary: str
    themes: list[str]
    signals: dict[str, list[str]]


class Point(TypedDict):
    """A benefit or a step; `icon` names the theme or is the number of the step."""

    icon: str
    title: str
    text: str


class Copy(TypedDict):
    """Every text of the campaign, unescaped; `link` is empty where there is nowhere to lead to."""

    locale: str
    language: str
    tone: str
    product: str
    eyebrow: str
    headline: str
    lede: str
    story_heading: str
    story: str
    benefits_heading: str
    benefits: list[Point]
    steps_heading: str
    steps: list[Point]
    offer_title: str
    offer: str
    call_to_action: str
    link: str
    share_heading: str
    share_text: str
    footer: str
    skip_link: str
    page_navigation: str
    hero_alt: str
    card_alt: str
    subject_a: str
    subject_b: str
    preheader: str
    greeting: str
    opening: str
    closing: str
    team: str
    reply: str
    unsubscribe: str
    post: str
    link_line: str
    hashtags: str


def seed_of(*texts: str) -> int:
    """Returns a number that is the same for the same texts, on every machine."""
    return int.from_bytes(hashlib.sha256("\n".join(texts).encode()).digest()[:8])


def research_audience(product: Product, audience: str, locale: Locale) -> AudienceProfile:
    """Finds the three themes that the words of product and audience point to most."""
    words = re.findall(r"\w+", f"{product.name} {product.description} {audience}".lower())
    signals: dict[str, list[str]] = {}
    for theme, beginnings in THEME_WORDS.items():
        starts = tuple(beginnings.split())
        signals[theme] = list(dict.fromkeys(word for word in words if word.startswith(starts)))
    # The seed settles ties, so that products without any signal do not all get the same three.
    themes = sorted(THEME_WORDS, key=lambda theme: (-len(signals[theme]), seed_of(theme, product.name)))[:3]
    return {
        "audience": audience,
        "locale": locale.tag,
        "summary": say(LANGUAGES[locale.language].counts_for, locale.language, audience=audience),
        "themes": themes,
        "signals": {theme: signals[theme] for theme in themes},
    }


def write_copy(
    product: Product,
    profile: AudienceProfile,
    offer: str,
    tone: str,
    locale: Locale,
    call_to_action: str,
    link: str,
) -> Copy:
    """Writes every text in the language of the locale and the voice of the tone."""
    language = LANGUAGES[locale.language]
    voice = language.voices[tone]
    call = call_to_action or say(voice.call_to_action, locale.language)
    words = {"product": product.name, "audience": profile["audience"], "offer": offer, "link": link}

    def spoken(phrase: str) -> str:
        return say(phrase, locale.language, call_to_action=call, **words)

    def point(icon: str, title: str, text: str) -> Point:
        return {"icon": icon, "title": spoken(title), "text": spoken(text)}

    return {
        "locale": locale.tag,
        "language": locale.language,
        "tone": tone,
        "product": product.name,
        "eyebrow": spoken(language.for_audience),
        "headline": spoken(voice.headlines[seed_of("headline", product.name) % 2]),
        "lede": spoken(voice.lede),
        "story_heading": spoken(language.story_heading),
        "story": as_sentence(product.description),
        "benefits_heading": profile["summary"],
        "benefits": [point(theme, *language.themes[theme]) for theme in profile["themes"]],
        "steps_heading": spoken(language.steps_heading),
        "steps": [point(str(number), *step) for number, step in enumerate(language.steps, 1)],
        "offer_title": spoken(voice.offer_title),
        "offer": as_sentence(offer),
        "call_to_action": call,
        "link": link,
        "share_heading": spoken(language.share_heading),
        "share_text": spoken(language.share_text),
        "footer": spoken(language.footer),
        "skip_link": spoken(language.skip_link),
        "page_navigation": spoken(language.page_navigation),
        "hero_alt": spoken(language.hero_alt),
        "card_alt": spoken(language.card_alt),
        "subject_a": shorten(spoken(voice.subject_a), 78),
        "subject_b": shorten(spoken(voice.subject_b), 78),
        "preheader": shorten(as_sentence(offer) + " " + spoken(voice.lede), 110),
        "greeting": spoken(voice.greeting),
        "opening": spoken(voice.opening),
        "closing": spoken(voice.closing),
        "team": spoken(language.team),
        "reply": spoken(language.reply),
        "unsubscribe": spoken(language.unsubscribe),
        "post": spoken(voice.post),
        "link_line": spoken(language.link_lead) if link else "",
        "hashtags": _hashtags(product.name, language.hashtag),
    }


def say(phrase: str, language: str, **words: str) -> str:
    """Fills the words of the brief into a phrase and sets apostrophes and French spaces."""
    phrase = re.sub(r"(?<=\w)'(?=\w)", "\N{RIGHT SINGLE QUOTATION MARK}", phrase)
    if language == "fr":
        phrase = re.sub(r" (?=[!?:;»])|(?<=«) ", "\N{NO-BREAK SPACE}", phrase)
    for name, word in words.items():
        if word.endswith((".", "!", "?", "…")):
            phrase = phrase.replace(f"{{{name}}}.", f"{{{name}}}")
    return phrase.format(**words)


def as_sentence(text: str) -> str:
    """Returns the text with a full stop, unless it is empty or ends in punctuation of its own."""
    return text + "." if (text and text[-1].isalnum()) or text.endswith(("%", "€", "$", "£")) else text


def shorten(text: str, limit: int) -> str:
    """Cuts the text at the last word that fits and marks the cut."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) > limit // 2 else cut).rstrip(" ,;:-") + "…"


def _hashtags(product: str, general: str) -> str:
    words = re.findall(r"\w+", product)
    own = "".join(word[0].upper() + word[1:] for word in words)
    # A tag of digits alone is not a tag on any platform, and a very long one is never searched for.
    return f"#{own} {general}" if own and not own.isdigit() and len(own) <= 30 else general
