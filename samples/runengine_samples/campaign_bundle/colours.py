"""Which colours can be read on which? Contrast after WCAG 2, and OKLCH, whose steps look equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

# WCAG 2 level AA for text of any size.
READABLE = 4.5


def contrast(one: str, other: str) -> float:
    """Returns the WCAG contrast ratio of two colours, from 1 to 21."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def most_readable(background: str) -> str:
    """Returns white or black, one of which is readable on any background; white if both are."""
    return "#ffffff" if contrast("#ffffff", background) >= READABLE else "#000000"


def readable(colour: str, backgrounds: Sequence[str]) -> str:
    """Makes the colour darker or lighter, as little as it takes to be readable on all backgrounds."""
    lightness, chroma, hue = oklch(colour)
    step = -0.01 if _luminance(backgrounds[0]) > 0.18 else 0.01
    while any(contrast(colour, background) < READABLE for background in backgrounds):
        lightness += step
        if not 0 <= lightness <= 1:
            return "#000000" if step < 0 else "#ffffff"
        colour = as_hex(lightness, chroma, hue)
    return colour


def apart(hue: float, other: float) -> float:
    """Returns the degrees between two hues, 0 to 180."""
    return abs((hue - other + 180) % 360 - 180)


def _luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))

    def straight(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    return straight(red), straight(green), straight(blue)


def oklch(colour: str) -> tuple[float, float, float]:
    """Takes a colour apart into lightness, chroma and hue as OKLCH has them, equal steps to the eye."""
    red, green, blue = _linear(colour)
    long = math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    middle = math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    lightness = 0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short
    a = 1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short
    b = 0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short
    return lightness, math.hypot(a, b), math.degrees(math.atan2(b, a)) % 360


def as_hex(lightness: float, chroma: float, hue: float) -> str:
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
