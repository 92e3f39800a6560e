"""Changes what the product asks of the database, so that a test can see what a guard was good for."""

from __future__ import annotations

from collections.abc import Callable

from runengine_server.repositories.functions import Function


def rewrite(function: Function, change: Callable[[str], str]) -> Callable[[], None]:
    """Changes its text in place; answers what undoes that. The database has to be told: under its new
    name it is another function.
    """
    before = function.query

    def put(query: str) -> None:
        vars(function).update(query=query)
        for derived in ("name", "call"):
            vars(function).pop(derived, None)

    put(change(before))
    return lambda: put(before)
