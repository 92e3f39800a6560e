"""Is everything fit to go out, and what is in the zip?"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, TypedDict

from runengine_samples.campaign_bundle.brief import SOCIAL_CHANNELS
from runengine_samples.campaign_bundle.colours import READABLE, contrast
from runengine_samples.campaign_bundle.messages import post_length
from runengine_samples.campaign_bundle.pictures import TEXT_ON_PAGE, TEXT_ON_PICTURE, Art

MEDIA_TYPES = {
    "html": "text/html",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "zip": "application/zip",
}
# The earliest time a zip can hold: the same files have to become the same bytes.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Check(TypedDict):
    """One thing that was checked, and what was found."""

    check: str
    passed: bool
    found: str


def media_type_of(name: str) -> str:
    """Returns the media type by the ending of a file's name."""
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type


def check_quality(art: Art, landing_page: str, posts: Mapping[str, str]) -> list[Check]:
    """Checks contrast, the structure of the page, and that each post fits its channel."""
    pairs = [
        (scheme[ink], scheme[ground])
        for scheme in (art["light"], art["dark"])
        for ink, ground in TEXT_ON_PAGE
    ]
    pairs += [(art["picture"][ink], art["picture"][ground]) for ink, ground in TEXT_ON_PICTURE]
    weakest = min(contrast(ink, ground) for ink, ground in pairs)
    page = _Page()
    page.feed(landing_page)
    checks: list[Check] = [
        {
            "check": "text contrast",
            "passed": weakest >= READABLE,
            "found": f"weakest of {len(pairs)} pairs is {weakest:.2f}:1",
        },
        {"check": "one main heading", "passed": page.headings == 1, "found": f"{page.headings} h1"},
        {
            "check": "pictures described or decorative",
            "passed": not page.silent_pictures,
            "found": f"{page.silent_pictures} without",
        },
        {
            "check": "nothing loaded from outside",
            "passed": not page.loads,
            "found": f"{len(page.loads)} resources",
        },
    ]
    for name, post in posts.items():
        if name.endswith(".txt"):
            channel = name.removesuffix(".txt")
            length, limit = post_length(post.rstrip("\n")), SOCIAL_CHANNELS[channel].text_limit
            checks.append(
                {"check": f"length for {channel}", "passed": length <= limit, "found": f"{length} of {limit}"}
            )
    return checks


def pack(files: Mapping[str, str], brief: Mapping[str, Any], locale: str) -> tuple[bytes, dict[str, Any]]:
    """Zips the files with a manifest of them, and returns the zip and the manifest."""
    contents = {name: text.encode() for name, text in sorted(files.items())}
    manifest = {
        "workflow": "campaign-bundle",
        "locale": locale,
        "brief": dict(brief),
        "files": [
            {
                "path": name,
                "mediaType": media_type_of(name),
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in contents.items()
        ],
    }
    contents["manifest.json"] = as_json(manifest).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return packed.getvalue(), manifest


def as_json(value: object) -> str:
    """Returns JSON to read, always in the same order; lone surrogates of the brief stay escaped."""
    return json.dumps(value, ensure_ascii=True, indent=2, sort_keys=True) + "\n"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.headings = 0
        self.silent_pictures = 0
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.headings += tag == "h1"
        if tag == "svg":
            self.silent_pictures += not (
                attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
            )
        if tag in ("script", "iframe", "object", "embed", "base"):
            self.loads.append(tag)
        for name in ("src", "srcset", "poster", "data", "xlink:href", *(("href",) if tag != "a" else ())):
            address = attributes.get(name)
            if address and not address.startswith("data:"):
                self.loads.append(address)
