"""Pages of lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def split_page(
    found: Sequence[T], limit: int, token_after: Callable[[T], str]
) -> tuple[Sequence[T], str | None]:
    """The first `limit` of what was found, and the token of the next page; None when this is the last. One
    more than the limit was asked for, to know. `token_after` makes the token of what comes after that one.
    """
    page = found[:limit]
    return page, token_after(page[-1]) if len(found) > limit else None
