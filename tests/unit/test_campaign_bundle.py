"""The sample workflow, run by LangGraph itself with its own memory stores."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from typing import Any

import pytest
from langgraph.cache.base import BaseCache
from langgraph.cache.memory import InMemoryCache
from runengine_samples.campaign_bundle import WORKFLOWS
from runengine_samples.campaign_bundle.brief import SOCIAL_CHANNELS
from runengine_samples.campaign_bundle.colours import contrast
from runengine_samples.campaign_bundle.messages import post_length
from runengine_samples.campaign_bundle.phrases import ENGLISH, LANGUAGES, TONES, Language, Voice
from runengine_samples.campaign_bundle.pictures import TEXT_ON_PAGE, TEXT_ON_PICTURE, direct_art

from tests.support.campaign_bundle import BRIEF, LONG_NAME, Tags, failing_step, run


async def test_a_full_brief_becomes_a_zip_with_page_mails_posts_and_manifest() -> None:
    outcome = await run(BRIEF)
    files = outcome.files
    assert sorted(files) == [
        "audience.json",
        "copy.json",
        "email/subjects.json",
        "email/variant-a.html",
        "email/variant-a.txt",
        "email/variant-b.html",
        "email/variant-b.txt",
        "index.html",
        "manifest.json",
        "pictures/hero.svg",
        "pictures/mark.svg",
        "quality-report.json",
        "social/instagram.svg",
        "social/instagram.txt",
        "social/x.svg",
        "social/x.txt",
    ]
    subjects = json.loads(files["email/subjects.json"])
    assert subjects["a"] != subjects["b"]
    for mail in ("email/variant-a.html", "email/variant-b.html", "email/variant-a.txt", "index.html"):
        assert "Solar Kettle" in files[mail]
        assert "20 % off until Sunday." in files[mail]
    assert all(check["passed"] for check in json.loads(files["quality-report.json"]))


async def test_the_manifest_lists_every_file_as_it_is() -> None:
    files = (await run(BRIEF)).files
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["brief"] == BRIEF
    assert manifest["locale"] == "en"
    assert {entry["path"] for entry in manifest["files"]} == set(files)
    for entry in manifest["files"]:
        content = files[entry["path"]].encode()
        assert entry["size"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    media_types = {entry["path"]: entry["mediaType"] for entry in manifest["files"]}
    assert media_types["index.html"] == "text/html; charset=utf-8"
    assert media_types["pictures/hero.svg"] == "image/svg+xml"


async def test_every_skill_saves_what_it_makes() -> None:
    outcome = await run(BRIEF)
    assert outcome.names == [
        "audience.json",
        "bundle.zip",
        "copy.json",
        "email-subjects.json",
        "email-variant-a.html",
        "email-variant-a.txt",
        "email-variant-b.html",
        "email-variant-b.txt",
        "hero.svg",
        "index.html",
        "manifest.json",
        "social-instagram.svg",
        "social-instagram.txt",
        "social-x.svg",
        "social-x.txt",
    ]
    bundle = outcome.artifacts[outcome.state["bundle_artifact_id"]]
    assert (bundle.name, bundle.media_type) == ("bundle.zip", "application/zip")


async def test_the_same_brief_makes_the_same_bytes() -> None:
    assert (await run(BRIEF)).bundle == (await run(json.loads(json.dumps(BRIEF)))).bundle


async def test_another_product_looks_and_reads_differently() -> None:
    one, other = (await run(BRIEF)).files, (await run({**BRIEF, "product": "Moon Lamp"})).files
    assert one["pictures/hero.svg"] != other["pictures/hero.svg"]
    assert "Solar Kettle" not in "".join(other.values())


async def test_without_email_or_social_channels_there_are_no_such_files() -> None:
    social_only = await run({**BRIEF, "channels": ["linkedin"]})
    assert not [name for name in social_only.files if name.startswith("email/")]
    email_only = await run({**BRIEF, "channels": ["email"]})
    assert not [name for name in email_only.files if name.startswith("social/")]


async def test_a_brief_without_landing_url_leads_to_the_offer_and_asks_for_a_reply() -> None:
    files = (await run({**BRIEF, "landingUrl": None})).files
    assert 'href="#offer"' in files["index.html"]
    assert ENGLISH.reply in files["email/variant-a.html"]
    assert "http" not in files["social/x.txt"]


async def test_a_brief_without_an_offer_fails_copywriting_and_says_so() -> None:
    brief = {name: value for name, value in BRIEF.items() if name != "offer"}
    assert await failing_step(brief) == (
        "copywriting",
        'The brief has no `offer`: give one sentence, such as "20 % off until Sunday".',
    )


@pytest.mark.parametrize(
    ("change", "step", "message"),
    [
        ({"product": None}, "audience-research", "The brief has no `product`: give its name"),
        ({"product": ["Kettle"]}, "audience-research", "`product` must be an object, not a list"),
        ({"product": {}}, "audience-research", "The brief has no `product.name`"),
        ({"product": {"name": " \n"}}, "audience-research", "`product.name` is empty"),
        ({"product": {"name": 7}}, "audience-research", "`product.name` must be text, not a number"),
        ({"product": {"name": "x" * 121}}, "audience-research", "has 121 characters: use at most 120"),
        ({"product": {"name": "x", "price": 1}}, "audience-research", "`product` has `price`: only name and"),
        ({"audience": None}, "audience-research", "The brief has no `audience`"),
        ({"locale": None}, "audience-research", "The brief has no `locale`: choose one of de, en, es, fr"),
        (
            {"locale": "it"},
            "audience-research",
            '`locale` is "it", and there are no phrases for that: choose',
        ),
        ({"paceSeconds": "1"}, "audience-research", "`paceSeconds` must be a number from 0 to 10, not text"),
        ({"paceSeconds": 11}, "audience-research", "`paceSeconds` is 11: give a number from 0 to 10"),
        ({"paceSeconds": True}, "audience-research", "not true or false"),
        ({"tone": None}, "copywriting", "The brief has no `tone`: choose one of bold, elegant, friendly"),
        ({"tone": "angry"}, "copywriting", '`tone` is "angry", and there are no phrases for that: choose'),
        ({"offer": 20}, "copywriting", "`offer` must be text, not a number"),
        ({"callToAction": "x" * 41}, "copywriting", "`callToAction` has 41 characters"),
        ({"landingUrl": "javascript:alert(1)"}, "copywriting", '`landingUrl` is "javascript:alert(1)": give'),
        ({"landingUrl": "https://[::1"}, "copywriting", "`landingUrl` is"),
        ({"brand": "#ff0000"}, "art-direction", "`brand` must be an object, not text"),
        ({"brand": {"primary": "red"}}, "art-direction", '`brand.primary` is "red": give a hex colour'),
        ({"brand": {"accent": "#ff0000"}}, "art-direction", "`brand` has no `primary`"),
        (
            {"channels": ["email", "fax"]},
            "social-variants",
            '`channels` has "fax", which is not known: choose from email',
        ),
        ({"channels": "email"}, "social-variants", "`channels` must be a list, not text"),
        ({"channels": []}, "social-variants", "`channels` is empty: list at least one of email"),
        ({"channels": None}, "social-variants", "The brief has no `channels`: list at least one of email"),
    ],
)
async def test_a_brief_with_a_fault_fails_the_skill_that_needs_it_and_says_what_would_be_right(
    change: dict[str, Any], step: str, message: str
) -> None:
    failed, said = await failing_step({**BRIEF, **change})
    assert failed == step
    assert message in said


async def test_an_empty_brief_fails_the_first_skill() -> None:
    assert await failing_step({}) == (
        "audience-research",
        "The brief has no `product`: give its name, such as "
        '{"name": "Solar Kettle", "description": "Boils water with sunlight."}.',
    )


async def test_markup_in_a_brief_stays_text() -> None:
    markup = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>"
    files = (
        await run(
            {
                **BRIEF,
                "product": {"name": markup, "description": f"</style></svg>{markup}"},
                "audience": f"friends of {markup}",
                "offer": f"]]>--> {markup} & more",
                "callToAction": "<b onclick=alert(3)>Go</b>",
                "channels": ["email", *SOCIAL_CHANNELS],
            }
        )
    ).files
    for name, content in files.items():
        if name.endswith(".html"):
            page = Tags(content)
            assert "script" not in page.tags
            assert "img" not in page.tags
            assert "b" not in page.tags
            assert not [attribute for attribute, _ in page.attributes if attribute.startswith("on")]
            assert markup in page.text
        if name.endswith(".svg"):
            kinds = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(content).iter()}
            assert kinds <= {"svg", "g", "path", "rect", "circle", "ellipse", "text", "tspan"}


async def test_characters_that_xml_forbids_are_left_out_of_every_file() -> None:
    outcome = await run(
        {**BRIEF, "product": "So\x00lar\nKettle\x1f", "offer": "50 %\r\nBcc: all@example.com"}
    )
    for name, content in outcome.files.items():
        if name.endswith(".svg"):
            ElementTree.fromstring(content)
    subjects = json.loads(outcome.files["email/subjects.json"])
    assert not [subject for subject in subjects.values() if re.search(r"[\r\n\0]", subject)]


async def test_the_page_needs_nothing_from_outside_and_can_be_read_without_seeing_it() -> None:
    page = Tags((await run({**BRIEF, "locale": "de-at"})).files["index.html"])
    attributes = set(page.attributes)
    assert ("lang", "de-AT") in attributes
    assert ("content", "de_AT") in attributes
    assert not {"script", "iframe", "img"} & set(page.tags)
    assert {"header", "nav", "main", "footer", "h1", "h2", "h3"} <= set(page.tags)
    assert not [address for name, address in page.attributes if name == "src"]
    assert ("aria-label", "Illustration zu Solar Kettle") in attributes


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tone", TONES)
async def test_every_language_and_tone_makes_a_bundle_that_passes_its_checks(
    language: str, tone: str
) -> None:
    outcome = await run(
        {
            **BRIEF,
            "product": LONG_NAME,
            "locale": language,
            "tone": tone,
            "channels": ["email", *SOCIAL_CHANNELS],
        }
    )
    assert [check for check in outcome.state["quality_report"] if not check["passed"]] == []
    assert not [name for name, content in outcome.files.items() if re.search(r"\{\w+\}", content)]


def phrases_of(language: Language) -> dict[str, str]:
    found: dict[str, str] = {}

    def collect(path: str, value: object) -> None:
        if isinstance(value, str):
            found[path] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                collect(f"{path}.{name}", inner)
        elif isinstance(value, tuple):
            for number, inner in enumerate(value):
                collect(f"{path}.{number}", inner)
        elif isinstance(value, Language | Voice):
            for field in fields(value):
                collect(f"{path}.{field.name}", getattr(value, field.name))

    collect("", language)
    return found


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_locale_has_every_phrase(code: str) -> None:
    english, own = phrases_of(ENGLISH), phrases_of(LANGUAGES[code])
    assert own.keys() == english.keys()
    assert set(LANGUAGES[code].voices) == set(TONES)
    for path, phrase in own.items():
        assert phrase.strip()
        assert set(re.findall(r"\{.*?\}", phrase)) == set(re.findall(r"\{.*?\}", english[path])), path
        if code != "en" and len(phrase.split()) > 4:
            assert phrase != english[path]


async def test_regions_speak_their_language_and_keep_their_tag() -> None:
    state = (await run({**BRIEF, "locale": "fr_ca"})).state
    assert state["campaign_copy"]["locale"] == "fr-CA"
    assert state["campaign_copy"]["language"] == "fr"


@pytest.mark.parametrize(
    "brand",
    [
        {},
        *(
            {"primary": colour}
            for colour in ("#ffffff", "#000000", "#ffd400", "#767676", "#00ff00", "#0000ff")
        ),
    ],
)
def test_text_is_readable_in_every_palette(brand: dict[str, str]) -> None:
    for number in range(60):
        art = direct_art(f"Product {number}", "", brand)
        for colours, pairs in (
            (art["light"], TEXT_ON_PAGE),
            (art["dark"], TEXT_ON_PAGE),
            (art["picture"], TEXT_ON_PICTURE),
        ):
            for ink, ground in pairs:
                assert contrast(colours[ink], colours[ground]) >= 4.5, (number, ink, ground)


def test_contrast_is_what_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


async def test_brand_colours_are_used_as_they_are() -> None:
    state = (await run({**BRIEF, "brand": {"primary": "#0A7D5A", "secondary": "#fc0"}})).state
    assert state["art"]["light"]["primary"] == "#0a7d5a"
    assert state["art"]["picture"]["sun"] == "#ffcc00"


@pytest.mark.parametrize("link", ["https://example.com/" + "p" * 400, "https://a.co"])
async def test_posts_stay_within_the_limit_of_their_channel(link: str) -> None:
    outcome = await run(
        {
            **BRIEF,
            "product": {"name": LONG_NAME, "description": "Sehr leise. " * 40},
            "offer": "Jetzt 🎉 " * 30,
            "landingUrl": link,
            "channels": list(SOCIAL_CHANNELS),
        }
    )
    for channel, rules in SOCIAL_CHANNELS.items():
        post = outcome.files[f"social/{channel}.txt"].rstrip("\n")
        assert 0 < post_length(post) <= rules.text_limit
        assert len(post) <= rules.text_limit
        assert link in post or "http" not in post
        card = ElementTree.fromstring(outcome.files[f"social/{channel}.svg"])
        assert card.attrib["viewBox"] == f"0 0 {rules.card_width} {rules.card_height}"


async def test_audience_research_is_done_once_for_the_same_audience() -> None:
    cache: BaseCache[Any] = InMemoryCache()
    first = await run(BRIEF, cache)
    second = await run({**BRIEF, "offer": "Free delivery"}, cache)
    third = await run({**BRIEF, "audience": "early risers"}, cache)
    assert [("audience.json" in outcome.names) for outcome in (first, second, third)] == [True, False, True]
    assert second.state["audience_profile"] == first.state["audience_profile"]


async def test_a_store_that_fails_once_does_not_fail_the_bundle() -> None:
    refused: list[str] = []

    def refuse_once(name: str) -> None:
        if name == "bundle.zip" and not refused:
            refused.append(name)
            raise ConnectionResetError("the store hung up")

    assert "index.html" in (await run(BRIEF, fail=refuse_once)).files
    assert refused


async def test_a_store_that_keeps_failing_fails_the_bundle_with_its_own_error() -> None:
    refused: list[str] = []

    def refuse(name: str) -> None:
        if name == "bundle.zip":
            refused.append(name)
            raise ConnectionResetError("the store hung up")

    with pytest.raises(ConnectionResetError, match="the store hung up"):
        await run(BRIEF, fail=refuse)
    assert len(refused) == 3


def test_every_node_names_its_skill() -> None:
    nodes = WORKFLOWS["campaign-bundle"].nodes
    assert len(nodes) == 9
    assert {name: (node.metadata or {}).get("skill_id") for name, node in nodes.items()} == {
        name: name for name in nodes
    }
