"""`runtime.store` in PostgreSQL does what LangGraph's own store in memory does, for one tenant."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.config import get_store
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.artifact_store import ArtifactDirectory
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.execution import Execution, ExecutionStopped
from runengine_server.worker.graph.failures import StateTooLarge, ValueNotStorable
from runengine_server.worker.graph.store import TenantStore

from tests.support.own_worker import Engine, Ran, State, alone, chain, code_and_step, fork, serving

# Labels and keys that are each other's beginnings, or that patterns and sort orders might misread.
LABELS = ["a", "b", "ab", "a!", "a*", "a%", "a_", "\\", "^a$", "A", "ä", "[", "longer than others"]
Call = Callable[[BaseStore], Any]

labels = st.sampled_from(["a", "b"]) | st.sampled_from(LABELS)
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["one", "two", "", "three's"])

# No 0 and no 1, which Python takes for false and true.
numbers = (
    st.integers(2, 9) | st.sampled_from([2.5, -3.25, 1e16, 1e300, 2**70]) | st.floats(min_value=2, width=32)
)
plain = (
    st.none()
    | st.booleans()
    | numbers.filter(lambda each: each != float("inf"))
    | st.text('ab"ä€😀', max_size=3)
)
# Small enough that filters find some of them.
small = st.sampled_from([None, True, 2, "a"])
wanted = small | st.lists(small, max_size=2) | st.dictionaries(st.sampled_from("ab"), small, max_size=2)
values = wanted | st.recursive(
    plain,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(labels, each, max_size=2),
    max_leaves=4,
)
small_numbers = st.integers(2, 4)
items = st.builds(
    lambda number, more: {"number": number, **more},
    small_numbers,
    st.dictionaries(st.sampled_from(["x", "$z"]), values, max_size=2),
)
ordering = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
compared = st.dictionaries(ordering, small_numbers | st.just(2.5), min_size=1, max_size=2)
same = st.dictionaries(st.sampled_from(["$eq", "$ne"]), wanted, min_size=1)
filters = st.none() | st.builds(
    lambda number, more: {**number, **more},
    st.just({}) | st.builds(lambda each: {"number": each}, compared | same | small_numbers),
    st.just({}) | st.dictionaries(st.sampled_from(["x", "$z"]), same | wanted, max_size=1),
)
paths = st.lists(labels | st.just("*"), min_size=1, max_size=3).map(tuple)
conditions = st.lists(
    st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2
).map(tuple)
limits, offsets = st.integers(0, 4) | st.just(100), st.integers(0, 3)

# By functions, because hypothesis would also fill in what is left out of a NamedTuple.
puts = st.builds(lambda *given: PutOp(*given), namespaces, keys, items | st.none())
gets = st.builds(lambda *given: GetOp(*given), namespaces, keys)
lists = st.builds(
    lambda *given: ListNamespacesOp(*given), conditions, st.none() | st.integers(0, 3), limits, offsets
)
# In which order a store finds things is its own affair: all are asked for.
searches = st.builds(lambda path, wanted: SearchOp(path, wanted, 1000), st.just(()) | namespaces, filters)
# Lists by themselves: the store in memory lists what an earlier operation of the batch has looked into.
filling = st.lists(st.builds(PutOp, namespaces, keys, items, st.none(), st.none()), min_size=6, max_size=12)
asking = st.lists(puts | gets | searches | searches | searches, min_size=1, max_size=8)
listing = st.lists(lists, min_size=1, max_size=3)
batches = st.builds(
    lambda first, more: [first, *more], filling, st.lists(asking | listing, min_size=1, max_size=4)
)


@asynccontextmanager
async def store_of(engine: Engine) -> AsyncIterator[TenantStore]:
    """The store of the engine's tenant, for a run that is held."""
    await engine.trigger()
    run = await engine.claim()
    held = HeldRunRepository(engine.database, run, "worker:test")
    yield TenantStore(
        Execution(held, ArtifactDirectory(engine.directory), engine.processor.progress.open(run))
    )


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[TenantStore]:
    async with store_of(engine) as store:
        yield store


def shown(found: Any) -> Any:
    """What a store has found, without times; in the order of the keys where the store has one of its own."""
    if isinstance(found, Item):
        return found.namespace, found.key, repr(found.value), getattr(found, "score", None)
    if isinstance(found, list) and found and isinstance(found[0], Item):
        return sorted(map(shown, found))
    return found


def without_empty_namespaces(memory: InMemoryStore) -> None:
    """It lists a namespace as soon as somebody has asked for it, and after its last item is gone."""
    for namespace in [name for name, found in memory._data.items() if not found]:
        del memory._data[namespace]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
async def test_the_store_finds_what_langgraphs_own_finds(
    engine: Engine, store: TenantStore, batches: list[list[Any]]
) -> None:
    memory = InMemoryStore()
    await engine.tenant.fetch("DELETE FROM store_items")
    for batch in batches:
        expected = await memory.abatch(batch)
        assert list(map(shown, await store.abatch(batch))) == list(map(shown, expected))
        without_empty_namespaces(memory)


VALUES: list[Any] = [
    None,
    2,
    2.0,
    3,
    "2",
    "a",
    False,
    [],
    [2],
    [2, 3],
    [[2], {"a": 2}],
    {},
    {"a": 2},
    {"a": 2, "b": [3]},
]


async def test_a_filter_finds_what_it_finds_in_langgraphs_own_store(store: TenantStore) -> None:
    memory = InMemoryStore()
    for number, value in enumerate([{}, *({"x": each} for each in VALUES)]):
        await store.aput(("n",), str(number), value)
        memory.put(("n",), str(number), value)
    equal = [{"x": {operator: value}} for operator in ("$eq", "$ne") for value in VALUES]
    for wanted in [*({"x": value} for value in VALUES), *equal, {"x": {"a": {"$ne": 2}}}, {"y": None}, {}]:
        expected = memory.search((), filter=wanted, limit=100)
        assert shown(await store.asearch((), filter=wanted, limit=100)) == shown(expected)


async def test_a_search_finds_what_was_changed_last_first_page_after_page(store: TenantStore) -> None:
    for key in ("one", "two", "three", "four"):
        await store.aput(("list",), key, {"key": key})
    await store.aput(("list",), "two", {"key": "again"})
    pages = [await store.asearch(("list",), limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [[item.key for item in page] for page in pages] == [["two", "four"], ["three", "one"], []]
    assert pages[0][0].created_at < pages[0][0].updated_at
    assert pages[0][1].created_at == pages[0][1].updated_at


@pytest.mark.parametrize(
    ("operand", "found"),
    [
        ({"$gte": "2026-02"}, ["later", "last"]),
        ({"$lt": "2026-02"}, ["first"]),
        ({"$gt": 2026}, []),
        ({"$gt": None}, []),
        ({"$ne": "2026-01"}, ["later", "last", "none"]),
    ],
    ids=["from", "before", "number", "null", "other"],
)
async def test_texts_are_compared_with_texts_and_with_nothing_else(
    store: TenantStore, operand: dict[str, Any], found: list[str]
) -> None:
    for key, at in {"none": None, "last": "2026-11", "later": "2026-02", "first": "2026-01"}.items():
        await store.aput(("at",), key, {} if at is None else {"at": at})
    assert [item.key for item in await store.asearch((), filter={"at": operand})] == found


async def test_a_value_comes_back_as_it_was_written(store: TenantStore) -> None:
    value = {
        "z": 1e16,
        "a": [2**70, -0.5, 1e-300],
        "text": 'ä"😀\\',
        "none": None,
        "deep": {"b": {}, "a": [[]]},
    }
    await store.aput(("values",), "one", {**value, "tuple": (1, 2)})
    item = await store.aget(("values",), "one")
    assert item is not None
    assert repr(item.value) == repr({**value, "tuple": [1, 2]})


class Note:
    pass


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def putting(value: Any, key: str = "k", namespace: tuple[str, ...] = ("n",), **more: Any) -> Call:
    return lambda store: store.aput(namespace, key, value, **more)


def searching(**what: Any) -> Call:
    return lambda store: store.asearch((), **what)


def doing(op: Any) -> Call:
    return lambda store: store.abatch([op])


REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "object": (putting({"a": Note()}), ValueNotStorable, "'n/k', of type 'dict'.*'Note' is not JSON"),
    "nan": (putting({"a": [float("nan")]}), ValueNotStorable, "JSON has no number nan"),
    "name": (putting({1: "a"}), ValueNotStorable, "a name in a dict is not text"),
    "nul": (putting({"a": "\0"}), ValueNotStorable, "a text has NUL"),
    "surrogate": (putting({"\ud800": 1}), ValueNotStorable, "what UTF-8 cannot encode"),
    "enum": (putting({"a": RunStatus.QUEUED}), ValueNotStorable, "'RunStatus' is not JSON"),
    "digits": (putting({"a": 10**5000}), ValueNotStorable, "digits"),
    "list": (putting(["a"]), ValueNotStorable, "the value of an item is a dict"),
    "depth": (putting(nested(5000)), ValueNotStorable, "nested too deep"),
    "size": (putting({"a": "x" * (16 << 20)}), StateTooLarge, "'n/k' in the store takes"),
    "key": (putting({}, "ä" * 257), ValueError, "key of an item is text of at most 512 bytes"),
    "key-nul": (doing(GetOp(("n",), "a\0b")), ValueError, "without NUL"),
    "namespace": (putting({}, namespace=("n",) * 513), InvalidNamespaceError, "at most 1,024 bytes"),
    "label": (putting({}, namespace=("\ud800",)), InvalidNamespaceError, "text that UTF-8 can encode"),
    "period": (doing(PutOp(("a.b",), "k", {})), InvalidNamespaceError, "periods"),
    "empty": (putting({}, namespace=()), InvalidNamespaceError, "empty"),
    "ttl": (putting({}, ttl=5), NotImplementedError, "TTL is not supported by TenantStore"),
    "ttl-in-batch": (doing(PutOp(("n",), "k", {}, ttl=5)), NotImplementedError, "has no TTL"),
    "operator": (searching(filter={"a": {"$in": [1]}}), ValueError, "no operator '\\$in'; it has \\$eq,"),
    "filter": (searching(filter={"a": Note()}), ValueError, "'Note' is not JSON"),
    "filter-depth": (searching(filter=nested(40)), ValueError, "nested deeper than 32 levels"),
    "limit": (searching(limit=-1), ValueError, "limit and offset"),
    "depth-of-list": (lambda store: store.alist_namespaces(max_depth=-1), ValueError, "max_depth is 0"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_operation_that_cannot_be_is_refused_by_its_own_error_and_nothing_is_stored(
    engine: Engine, store: TenantStore, name: str
) -> None:
    wrong, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        await wrong(store)
    assert await engine.tenant.fetch("SELECT FROM store_items") == []


async def test_one_refused_write_of_a_batch_keeps_the_others_from_being_stored(
    engine: Engine, store: TenantStore
) -> None:
    with pytest.raises(ValueNotStorable):
        await store.abatch([PutOp(("n",), "good", {}), PutOp(("n",), "bad", {"a": Note()})])
    assert await engine.tenant.fetch("SELECT FROM store_items") == []


async def test_a_query_and_an_index_change_nothing_as_in_a_store_without_vectors(store: TenantStore) -> None:
    await store.aput(("notes",), "tea", {"text": "I like tea"}, index=["text"])
    found = await store.asearch(("notes",), query="what does he drink?", filter={"text": "I like tea"})
    assert [(item.key, item.score) for item in found] == [("tea", None)]


async def test_a_store_waited_for_in_the_event_loop_says_what_to_call(store: TenantStore) -> None:
    with pytest.raises(asyncio.InvalidStateError, match="aget"):
        store.get(("notes",), "tea")


async def test_two_tenants_share_no_item(database_url: str) -> None:
    async with (
        serving(database_url, chain(one=Ran().node("one"))) as engine,
        serving(database_url, chain(one=Ran().node("one"))) as other,
        store_of(engine) as store,
        store_of(other) as others,
    ):
        await store.aput(("users", "42"), "name", {"is": "Ada"})
        await others.aput(("users", "42"), "name", {"is": "Bob"})
        await others.adelete(("users", "43"), "name")
        for each, name in ((store, "Ada"), (others, "Bob")):
            item = await each.aget(("users", "42"), "name")
            assert item is not None
            assert item.value == {"is": name}
            assert [found.value for found in await each.asearch(())] == [{"is": name}]
        await others.adelete(("users", "42"), "name")
        assert await store.alist_namespaces() == [("users", "42")]
        assert await others.alist_namespaces() == []


async def test_a_worker_that_has_lost_its_run_puts_and_deletes_nothing(
    engine: Engine, store: TenantStore
) -> None:
    await store.aput(("n",), "kept", {"by": "both"})
    (row,) = await engine.tenant.fetch("SELECT id FROM runs")
    await engine.take_over(row["id"])
    for write in (
        store.aput(("n",), "new", {}),
        store.aput(("n",), "kept", {}),
        store.adelete(("n",), "kept"),
    ):
        with pytest.raises(ExecutionStopped):
            await write
    rows = await engine.tenant.fetch("SELECT key, value FROM store_items")
    assert [(row["key"], row["value"]) for row in rows] == [("kept", '{"by": "both"}')]


async def remember(state: State, runtime: Runtime[Any]) -> State:
    assert runtime.store is not None
    await runtime.store.aput(("seen",), "async", {"by": "async"})
    return {
        "seen": [item.key for item in await runtime.store.asearch(("seen",), filter={"by": {"$ne": "async"}})]
    }


def remember_too(state: State) -> State:
    """On a thread."""
    store = get_store()
    known = store.get(("seen",), "async")
    store.put(("seen",), "sync", {"by": "sync"})
    store.delete(("seen",), "gone")
    return {"seen": [] if known is None else [known.key, *map(str, store.list_namespaces(prefix=("seen",)))]}


def within(node: Any) -> Any:
    inner: Any = StateGraph(State)
    inner.add_node("inner", node)
    inner.add_edge(START, "inner")
    return inner.compile()


async def seen(engine: Engine) -> str:
    """What the graph has returned, encoded."""
    run = await engine.execute()
    assert run.error is None
    output = await engine.runs.get_output(run.id)
    assert output is not None
    assert output.encoded is not None
    return output.encoded.decode(errors="replace")


@pytest.mark.parametrize("in_sub_graph", [False, True], ids=["node", "sub-graph"])
async def test_nodes_of_any_kind_find_in_one_run_what_another_has_put(
    database_url: str, in_sub_graph: bool
) -> None:
    nodes = [within(each) if in_sub_graph else each for each in (remember, remember_too)]
    async with serving(database_url, chain(first=nodes[0], second=nodes[1])) as engine:
        assert "sync" not in (first := await seen(engine)).replace("async", "")
        assert "async" in first
        assert "sync" in (await seen(engine)).replace("async", "")


@task
async def count() -> int:
    store = get_store()
    item = await store.aget(("counts",), "runs")
    number = 1 if item is None else item.value["number"] + 1
    await store.aput(("counts",), "runs", {"number": number})
    return number


@entrypoint()
async def counting(payload: dict[str, Any], *, store: BaseStore) -> str:
    return f"run {await count()} of {len(await store.asearch(()))}"


async def test_an_entrypoint_has_the_store(database_url: str) -> None:
    async with serving(database_url, counting) as engine:
        assert "run 1 of 1" in await seen(engine)
        assert "run 2 of 1" in await seen(engine)


async def test_a_graph_that_was_compiled_with_a_store_keeps_it(database_url: str) -> None:
    own = InMemoryStore()
    async with serving(database_url, alone("remember", remember).compile(store=own)) as engine:
        await seen(engine)
        assert own.get(("seen",), "async") is not None
        assert await engine.tenant.fetch("SELECT FROM store_items") == []


async def test_nodes_side_by_side_that_put_the_same_keys_all_end(database_url: str) -> None:
    def node(names: list[str]) -> Any:
        async def put(state: State, runtime: Runtime[Any]) -> State:
            assert runtime.store is not None
            await runtime.store.abatch([PutOp(("n",), name, {}) for name in names])
            return {}

        return put

    names = [str(number) for number in range(50)]
    nodes = {f"node{number}": node(names if number % 2 else names[::-1]) for number in range(10)}
    async with serving(database_url, fork(**nodes)) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED


async def test_a_step_that_puts_what_is_no_json_fails_and_a_retry_would_not_help(database_url: str) -> None:
    async def put(state: State, runtime: Runtime[Any]) -> State:
        assert runtime.store is not None
        await runtime.store.aput(("n",), "k", {"a": Note()})
        return {}

    async with serving(database_url, alone("put", put)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("VALUE_NOT_STORABLE", "put")
        assert run.error is not None
        assert not run.error.retryable


async def store_command(database_url: str, directory: Path, *options: str) -> tuple[int | None, str]:
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_server", "store", *options,
        env=os.environ | {"RUNENGINE_DATABASE_URL": database_url, "RUNENGINE_STATE_DIR": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await command.communicate()
    return command.returncode, out.decode()


async def test_the_command_clears_a_namespace_or_all_of_one_tenants_store(
    database_url: str, engine: Engine, store: TenantStore, tmp_path: Path
) -> None:
    for namespace in (("users",), ("users", "42"), ("users2",)):
        await store.aput(namespace, "k", {})
    clear = ("--clear", f"--tenant={engine.tenant_id}")
    assert await store_command(database_url, tmp_path, *clear[1:]) == (2, "")
    assert await store_command(database_url, tmp_path, "--clear", "--tenant=org_other") == (0, "0 cleared\n")
    assert await store_command(database_url, tmp_path, *clear, "--namespace=users") == (0, "2 cleared\n")
    assert await store_command(database_url, tmp_path, *clear) == (0, "1 cleared\n")
    assert await store.alist_namespaces() == []
