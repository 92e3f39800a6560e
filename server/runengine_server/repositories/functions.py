"""Statements that PostgreSQL keeps as functions, so that a call of one is one round trip."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

_SETTINGS = {
    True: "PERFORM set_config('runengine.dispatch', 'on', true);",
    False: "PERFORM set_config('runengine.tenant', $1, true);",
}


# Whatever the path of who calls it: what is not qualified is PostgreSQL's own. Temporary objects would come
# first of all, were they not named last. Costs 0.2 µs a call.
_PATH = "SET search_path = pg_catalog, public, pg_temp"

_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|SHARE|pg_notify|pg_advisory_xact_lock)\b")


@dataclass(frozen=True)
class Function:
    """A statement under row-level security, for the tenant that is its $1, or for dispatch.

    The setting that the policies read has to be made before the statement, in its transaction. By
    itself that is BEGIN with the setting, the statement, and COMMIT: three round trips. Here it is one.

    `parameters` are the types of $1, $2 …; `columns` what it returns; `query` an SQL query, or where
    `steps` is true the statements of a PL/pgSQL function. The name in the database ends in a hash of
    the whole, so that servers of two versions share a database, each with the functions that
    `migrate` of its version has made.
    """

    title: str
    parameters: str
    columns: str
    query: str
    steps: bool = False
    dispatch: bool = False
    variables: str = ""

    @cached_property
    def name(self) -> str:
        """Its name in the database."""
        return f"{self.title}_{hashlib.sha256(self._text.encode()).hexdigest()[:8]}"

    @property
    def _text(self) -> str:
        body = self.query if self.steps else f"RETURN QUERY {self.query.strip()};"
        return f"""({self.parameters}) RETURNS TABLE ({self.columns}) LANGUAGE plpgsql {_PATH} AS $function$
#variable_conflict use_column
DECLARE {self.variables}
BEGIN
    {_SETTINGS[self.dispatch]}
    {body}
END
$function$"""

    @cached_property
    def reads(self) -> bool:
        """Whether it stores nothing and locks nothing, and so its commit waits for nobody."""
        return _WRITES.search(self.query) is None

    @property
    def definition(self) -> str:
        """The statement that makes it."""
        return f"CREATE OR REPLACE FUNCTION public.{self.name}{self._text}"

    @cached_property
    def call(self) -> str:
        """The statement that calls it."""
        numbers = range(1, self.parameters.count(",") + 2) if self.parameters else ()
        return f"SELECT * FROM public.{self.name}({', '.join(f'${number}' for number in numbers)})"
