"""How large is a text in a picture, and where do its lines end?"""

from __future__ import annotations

from html import escape


class Block:
    """Lines of text at a size; the measures are estimates, as SVG has no fonts to ask."""

    def __init__(self, lines: list[str], size: float) -> None:
        self.lines, self.size = lines, size
        self.width = max((_width(line, size) for line in lines), default=0.0)
        self.height = len(lines) * size * 1.16


def fit(text: str, width: float, height: float, largest: float, smallest: float) -> Block:
    """Returns the text in lines, as large as fits between the two sizes; cut, where nothing else helps."""
    size = largest
    while True:
        lines = _wrap(text, width, size)
        fitting = max(1, int(height / (size * 1.16)))
        if len(lines) <= fitting and (size <= smallest or not _breaks_words(text, width, size)):
            return Block(lines, size)
        if size <= smallest:
            break
        size = max(smallest, size - 2)
    last = lines[fitting - 1]
    while last and _width(last + "…", size) > width:
        last = last[:-1]
    return Block([*lines[: fitting - 1], last.rstrip(" ,;:-") + "…"], size)


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


def lines_of(block: Block, x: float, y: float, colour: str, font: str, weight: int) -> str:
    """Returns the SVG of the block, whose top left corner is at (x, y)."""
    spans = "".join(
        f'<tspan x="{x:.0f}" y="{y + block.size * (0.9 + 1.16 * number):.0f}">{escape(line)}</tspan>'
        for number, line in enumerate(block.lines)
    )
    return (
        f'<text font-family="{escape(font)}" font-size="{block.size:.0f}" font-weight="{weight}" '
        f'fill="{colour}">{spans}</text>'
    )
