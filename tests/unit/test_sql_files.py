"""The functions that the database keeps, read by PostgreSQL's own parser without a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pglast
import pytest
from pglast import ast
from pglast.visitors import Skip, Visitor
from runengine_server.database import functions
from runengine_server.database.functions import dispatch_function, each_call, of_tenants, tenant_function
from runengine_server.domain.run import RunStatus
from runengine_server.domain.transitions import Transition

from tests.support.rewritten_functions import batched, called, texts

# How PL/pgSQL says that an expression is not a whole statement: 2 is an expression, 3 to 5 assign one.
EXPRESSION = 2
SETTING = {
    True: "PERFORM set_config('runengine.tenant', _tenant, true);",
    False: "PERFORM set_config('runengine.dispatch', 'on', true);",
}


def expressions(found: Any) -> Iterator[tuple[int, str]]:
    """What stands between PL/pgSQL's own words."""
    if isinstance(found, dict):
        if "PLpgSQL_expr" in found:
            yield found["PLpgSQL_expr"].get("parseMode", 0), found["PLpgSQL_expr"]["query"]
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from expressions(each)


def statements(text: str) -> list[str]:
    """The SQL within a function, each a statement that parses by itself."""
    if " LANGUAGE plpgsql" not in text.replace("\n", " "):
        _, dollars, rest = text.partition("$$")
        return [rest.rpartition("$$")[0]] if dollars else []
    return [
        query
        if mode < EXPRESSION
        else f"SELECT {query}"
        if mode == EXPRESSION
        else f"SELECT {query.partition(':=')[2]}"
        for mode, query in expressions(pglast.parse_plpgsql(text))
    ]


class Tables(Visitor):
    """The tables that a statement names, without those that it defines by WITH."""

    def __init__(self) -> None:
        self.named: list[ast.RangeVar] = []
        self.defined: set[str] = set()

    def visit_RangeVar(self, ancestors: Any, node: ast.RangeVar) -> None:  # noqa: N802
        self.named.append(node)

    def visit_LockingClause(self, ancestors: Any, node: ast.LockingClause) -> type[Skip]:  # noqa: N802
        """Names what is named already."""
        return Skip

    def visit_CommonTableExpr(self, ancestors: Any, node: ast.CommonTableExpr) -> None:  # noqa: N802
        self.defined.add(str(node.ctename))


@pytest.mark.parametrize("file", functions.FILES)
def test_a_file_of_functions_parses(file: str) -> None:
    assert pglast.parse_sql(functions.FILES[file])


@pytest.mark.parametrize("name", texts())
def test_each_statement_within_a_function_parses_and_names_the_schema_of_its_tables(name: str) -> None:
    for statement in statements(texts()[name]):
        tables = Tables()
        tables(pglast.parse_sql(statement))
        assert {each.relname for each in tables.named if each.schemaname != "public"} <= tables.defined


@pytest.mark.parametrize("name", sorted(called()))
def test_a_function_begins_with_the_setting_that_the_policies_read(name: str) -> None:
    text = texts()[name]
    is_for_tenant = f"{name}(_tenant text" in text
    body = text.partition("\nBEGIN\n")[2].lstrip()
    assert body.startswith(SETTING[is_for_tenant])
    assert text.count("set_config('runengine.") == 1
    assert (tenant_function if is_for_tenant else dispatch_function)(name).name == name


def test_a_function_that_servers_call_is_one_that_keeps_its_search_path() -> None:
    assert called() == {name for name, text in texts().items() if "set_config('runengine." in text}


@pytest.mark.parametrize(
    ("batch", "of", "one"),
    [
        (each_call, "trigger_runs_of_tenants", "trigger_run"),
        (each_call, "list_changes_of_readers", "list_changes"),
        (of_tenants, "record_progress_of_tenants", "record_progress"),
    ],
)
def test_a_function_for_a_batch_takes_what_the_one_that_it_calls_takes(
    batch: Callable[[str, str], object], of: str, one: str
) -> None:
    assert of in batched()
    assert f" {one}(" in texts()[of]
    assert batch(one, of)
    for make in (tenant_function, dispatch_function):
        with pytest.raises(KeyError):
            make(of)
    with pytest.raises(KeyError):
        batch("cancel_run", of)


@pytest.mark.parametrize("name", sorted(called()))
def test_a_function_for_one_tenant_is_none_for_all_and_the_reverse(name: str) -> None:
    with pytest.raises(KeyError):
        (dispatch_function if f"{name}(_tenant text" in texts()[name] else tenant_function)(name)


@pytest.mark.parametrize("name", sorted(called()))
def test_a_function_that_is_stable_is_known_to_read_alone(name: str) -> None:
    make = tenant_function if f"{name}(_tenant text" in texts()[name] else dispatch_function
    assert make(name).is_reading == ("STABLE" in texts()[name].partition("$$")[0])


def test_a_change_of_a_function_changes_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = functions.schema()
    functions.schema.cache_clear()
    monkeypatch.setitem(functions.FILES, "runs.sql", functions.FILES["runs.sql"] + "\n")
    changed = functions.schema()
    functions.schema.cache_clear()
    assert changed != before


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("cancel_run", {*Transition.CANCEL.sources, RunStatus.CANCELLED}),
        ("retry_run", set(Transition.RETRY.sources)),
        ("resume_run", set(Transition.RESUME.sources)),
    ],
)
def test_a_transition_of_callers_starts_where_the_table_of_transitions_says(
    name: str, sources: set[RunStatus]
) -> None:
    (array,) = re.findall(r"lock_run\(.*ARRAY\[(.*)\]\)", texts()[name])
    assert set(re.findall(r"'(\w+)'", array)) == sources
