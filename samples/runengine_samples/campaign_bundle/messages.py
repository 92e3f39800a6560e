"""What do the mails and the posts say, and do they fit where they go?"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Literal

from runengine_samples.campaign_bundle.brief import SOCIAL_CHANNELS
from runengine_samples.campaign_bundle.copywriting import Copy, shorten
from runengine_samples.campaign_bundle.pictures import LOOKS, Art, card

MAIL_FONT = "Arial, Helvetica, sans-serif"


def write_mails(copy: Copy, art: Art) -> dict[str, str]:
    """Writes two mails, A led by the product and B by the offer, as HTML and as plain text, by file name."""
    subjects = {"a": copy["subject_a"], "b": copy["subject_b"], "preheader": copy["preheader"]}
    return {
        "variant-a.html": _html_mail(copy, art, "a"),
        "variant-a.txt": _plain_mail(copy, "a"),
        "variant-b.html": _html_mail(copy, art, "b"),
        "variant-b.txt": _plain_mail(copy, "b"),
        "subjects.json": json.dumps(subjects, ensure_ascii=False, indent=2) + "\n",
    }


def write_posts(copy: Copy, art: Art, channels: list[str]) -> dict[str, str]:
    """Writes a text and draws a card for each social channel, by file name."""
    files = {}
    for name in channels:
        channel = SOCIAL_CHANNELS[name]
        files[f"{name}.txt"] = _post(copy, channel.text_limit) + "\n"
        files[f"{name}.svg"] = card(art, copy, channel.card_width, channel.card_height)
    return files


def post_length(text: str) -> int:
    """Counts a post the way the strictest platform does.

    X and Mastodon shorten every address to 23 characters, and X counts emoji and most scripts
    beyond Latin, Greek and Cyrillic double. A longer address counts in full, as elsewhere.
    """
    addresses = sum(max(0, 23 - len(address)) for address in re.findall(r"https?://\S+", text))
    return addresses + sum(1 if ord(char) <= 0x10FF or 0x2000 <= ord(char) <= 0x2037 else 2 for char in text)


def _post(copy: Copy, limit: int) -> str:
    lead, offer = copy["post"], copy["offer"]
    link, tags = copy["link_line"], copy["hashtags"]
    richest_first = (
        [lead, copy["story"], offer, link, tags],
        [lead, offer, link, tags],
        [lead, offer, link],
        [f"{copy['product']}: {offer}", link],
    )
    for parts in richest_first:
        text = "\n\n".join(part for part in parts if part)
        if post_length(text) <= limit:
            return text
    # A link that leaves no room for words goes, for a cut one would lead nowhere.
    ending = f"\n\n{link}" if link and post_length(link) <= limit // 2 else ""
    room = limit
    while post_length(text := shorten(f"{copy['product']}: {offer}", room) + ending) > limit:
        room -= 1
    return text


def _html_mail(copy: Copy, art: Art, variant: Literal["a", "b"]) -> str:
    text = {name: escape(value) for name, value in copy.items() if isinstance(value, str)}
    light, picture = art["light"], art["picture"]
    heading_font, weight, radius = LOOKS[copy["tone"]]
    heading = f"font-family:{escape(heading_font)};font-weight:{min(weight, 800)}"
    # Mail programs drop SVG, so the mosaic of the page is a row of coloured cells here.
    stripe = "".join(
        f'<td height="14" bgcolor="{picture[name]}" style="font-size:0;line-height:0">&nbsp;</td>'
        for name in ("main", "sun", "deep", "coral", "soft", "main", "coral", "sun")
    )
    if copy["link"]:
        button = (
            f'<table role="presentation" cellpadding="0" cellspacing="0" align="center"><tr>'
            f'<td align="center" bgcolor="{picture["sun"]}" style="border-radius:{radius}px">'
            f'<a href="{text["link"]}" style="display:inline-block;padding:15px 30px;'
            f'color:{picture["on_sun"]};font:bold 17px/1.3 {MAIL_FONT};text-decoration:none">'
            f"{text['call_to_action']}</a></td></tr></table>"
        )
    else:
        button = f'<p style="margin:0;color:{light["on_band"]};font:16px/1.5 {MAIL_FONT}">{text["reply"]}</p>'
    offer = _row(
        f'<table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr>'
        f'<td align="center" bgcolor="{light["band"]}" style="padding:34px 26px;border-radius:{radius}px">'
        f'<h2 style="margin:0 0 10px;color:{light["on_band"]};font:bold 15px/1.4 {MAIL_FONT}">'
        f"{text['offer_title']}</h2>"
        f'<p style="margin:0 0 24px;color:{light["on_band"]};font-size:26px;line-height:1.25;{heading}">'
        f"{text['offer']}</p>{button}</td></tr></table>"
    )
    paragraph = f"margin:0 0 16px;color:{light['ink']};font:17px/1.6 {MAIL_FONT}"
    opening = _row(
        f'<p style="{paragraph}">{text["greeting"]}</p><p style="{paragraph};margin-bottom:0">'
        f"{' '.join(part for part in (text['opening'], text['story']) if part)}</p>"
    )
    benefits = _row(
        f'<h2 style="margin:0 0 18px;color:{light["ink"]};font-size:21px;line-height:1.25;{heading}">'
        f"{text['benefits_heading']}</h2>"
        + "".join(
            f'<table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr>'
            f'<td width="6" bgcolor="{picture[stripe_colour]}" style="font-size:0;line-height:0">&nbsp;</td>'
            f'<td style="padding:2px 0 2px 18px;color:{light["muted"]};font:16px/1.5 {MAIL_FONT}">'
            f'<strong style="color:{light["ink"]}">{escape(point["title"])}</strong><br>'
            f"{escape(point['text'])}</td></tr>"
            '<tr><td colspan="2" height="16" style="font-size:0;line-height:0">&nbsp;</td></tr></table>'
            for stripe_colour, point in zip(("main", "sun", "coral"), copy["benefits"], strict=True)
        )
    )
    closing = _row(
        f'<p style="{paragraph};margin-bottom:2px">{text["closing"]}</p>'
        f'<p style="{paragraph};margin-bottom:0;font-weight:bold">{text["team"]}</p>'
    )
    body = [opening, benefits, offer, closing] if variant == "a" else [offer, opening, benefits, closing]
    return f"""<!doctype html>
<html lang="{text["locale"]}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{text[f"subject_{variant}"]}</title>
</head>
<body style="margin:0;padding:0;background:{light["tint"]};overflow-wrap:anywhere">
<div style="display:none;max-height:0;overflow:hidden">{text["preheader"]}</div>
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" bgcolor="{light["tint"]}"><tr>
<td align="center" style="padding:24px 12px">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" bgcolor="{light["surface"]}" \
style="max-width:600px">
<tr><td><table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr>{stripe}</tr></table>
</td></tr>
<tr><td style="padding:36px 32px 26px">
<p style="margin:0 0 14px;color:{light["link"]};font:bold 15px/1.4 {MAIL_FONT}">{text["eyebrow"]}</p>
<h1 style="margin:0;color:{light["ink"]};font-size:{26 if len(copy["headline"]) > 48 else 36}px;\
line-height:1.15;{heading}">{text["headline"]}</h1>
</td></tr>
{"".join(body)}
<tr><td style="padding:20px 32px 32px;border-top:1px solid {light["line"]};color:{light["muted"]};\
font:13px/1.5 {MAIL_FONT}">{text["unsubscribe"]}</td></tr>
</table>
</td></tr></table>
</body>
</html>
"""


def _row(content: str) -> str:
    return f'<tr><td style="padding:0 32px 32px">{content}</td></tr>\n'


def _plain_mail(copy: Copy, variant: Literal["a", "b"]) -> str:
    offer = f"{copy['offer_title']}\n{copy['offer']}\n{copy['link_line'] or copy['reply']}"
    opening = " ".join(part for part in (copy["opening"], copy["story"]) if part)
    benefits = "\n".join(f"* {point['title']}\n  {point['text']}" for point in copy["benefits"])
    parts = [copy["greeting"], opening, f"{copy['benefits_heading']}\n{benefits}", offer]
    if variant == "b":
        parts = [copy["greeting"], offer, opening, f"{copy['benefits_heading']}\n{benefits}"]
    ending = [f"{copy['closing']}\n{copy['team']}", f"-- \n{copy['unsubscribe']}"]
    return "\n\n".join([copy["subject_a"] if variant == "a" else copy["subject_b"], *parts, *ending]) + "\n"
