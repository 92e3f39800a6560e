"""What decides in `make bench`: verdicts, CPU time read from /proc, and what h2load printed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench import h2load
from tests.bench.cpu import LOAD, POSTGRESQL, Meter, Round, name_of, parse_busy, parse_stat
from tests.bench.goals import Goal, Row
from tests.bench.load import Generator, Missing
from tests.bench.verdicts import BUSY, Measured, merged


def round_of(value: float, serve: float = 400e-6, others: float = 0.0) -> Round:
    """Of 1,000 calls a second for a second; `serve` in seconds a call."""
    cpu = {LOAD: 0.04, "serve": serve * 1000, POSTGRESQL: 0.1, "gateway": 0.0001}
    return Round(value, 1000, 1.0, cpu, others)


def row_of(goal: Goal, number: int = 1, figure: str = "a list", cores_own: bool = True) -> Row:
    nothing: Any = None
    return Row(number, figure, "another", "calls/s", goal, nothing, cores_own=cores_own)


AT_LEAST_HALF = Goal(0.5)
BY_CPU = Goal(0.5, by_cpu=True)


@pytest.mark.parametrize(
    ("goal", "figures", "references", "verdict"),
    [
        (AT_LEAST_HALF, [round_of(60)] * 3, [round_of(100)] * 3, "met"),
        (AT_LEAST_HALF, [round_of(40)] * 3, [round_of(100)] * 3, "**missed**"),
        (Goal(1.5, at_least=False), [round_of(1.4)] * 3, [round_of(1)] * 3, "met"),
        (Goal(1.5, at_least=False), [round_of(1.6)] * 3, [round_of(1)] * 3, "**missed**"),
        (Goal(1.5, at_least=False, most=90), [round_of(91)] * 3, [round_of(90)] * 3, "**missed**"),
        (Goal(None), [round_of(1)], [round_of(2)], ""),
        (BY_CPU, [round_of(40, 400e-6)] * 3, [round_of(100, 240e-6)] * 3, "met"),
        (BY_CPU, [round_of(60, 400e-6)] * 3, [round_of(100, 160e-6)] * 3, "**missed**"),
        # The reference moves: what all rounds say stands.
        (AT_LEAST_HALF, [round_of(60), round_of(90)], [round_of(70), round_of(100)], "met"),
        (AT_LEAST_HALF, [round_of(20), round_of(30)], [round_of(70), round_of(100)], "**missed**"),
    ],
)  # fmt: skip
def test_a_verdict_is_by_the_median_of_what_decides(
    goal: Goal, figures: list[Round], references: list[Round], verdict: str
) -> None:
    assert Measured(row_of(goal), figures, references).verdict == verdict


def test_a_row_beside_the_work_of_others_is_not_measured_whatever_it_shows() -> None:
    for value in (10, 90):
        busy = [round_of(value, others=BUSY + 0.01)] * 3
        measured = Measured(row_of(AT_LEAST_HALF), busy, [round_of(100, others=BUSY + 0.01)] * 3)
        assert measured.verdict.startswith("**not measured**: others took")
        assert not measured.calm


def test_rounds_that_disagree_by_a_reference_that_moves_are_no_measurement() -> None:
    measured = Measured(row_of(AT_LEAST_HALF), [round_of(60)] * 2, [round_of(100), round_of(150)])
    assert measured.verdict.startswith("**not measured**: the reference moved by 1.50")


def test_a_ratio_of_cpu_leaves_out_postgresql_where_the_core_is_measured() -> None:
    sides = [round_of(1, 400e-6)], [round_of(1, 200e-6)]
    assert Measured(row_of(BY_CPU), *sides).cpu_ratios == pytest.approx([0.5])
    whole = Measured(row_of(BY_CPU, cores_own=False), *sides)
    assert whole.cpu_ratios == pytest.approx([0.6])
    assert Measured(row_of(Goal(2, at_least=False)), *sides).cpu_ratios == pytest.approx([2])


def test_the_line_of_a_row_has_what_serves_and_nothing_that_waits() -> None:
    measured = Measured(row_of(BY_CPU), [round_of(60)] * 2, [round_of(100, 240e-6)] * 2)
    assert str(measured) == (
        "| 1 | a list: 60.0 calls/s | serve 400, PostgreSQL 100 | another: 100 calls/s "
        "| serve 240, PostgreSQL 100 | 0.60 (0.60–0.60) | **0.60 (0.60–0.60)** | ≥ 0.5 | met"
    )


def test_a_table_keeps_the_rows_that_were_not_measured_again() -> None:
    rows = [
        row_of(BY_CPU, 1),
        row_of(BY_CPU, 10, "p50, slow"),
        row_of(BY_CPU, 10, "p50"),
        row_of(BY_CPU, 10, "p95"),
    ]
    again = replace(rows[3], reference="a third")
    before = [
        "# head",
        "| 1 | a list | | another | |",
        "| 10 | p50, slow: 2 | | another: 1 | |",
        "| 10 | p50: 3 | | another: 1 | |",
        "| 10 | p95: 4 | | another: 1 | |",
        "| 10 | p95: 5 | | a third: 1 | |",
        "| 11 | gone: 6 | | another: 1 | |",
    ]
    now = ["| 10 | p95: 7 | serve 1 | another: 1 | bare 2 |"]
    assert merged([*rows, again], before, now) == [*before[1:4], *now, before[5]]


def test_the_stat_of_a_process_is_read_behind_any_command() -> None:
    fields = "S 7 1 1 0 -1 4194560 1 1 1 1 150 50 30 20 20 0 1 0 99 1 1"
    process = parse_stat(f"42 (a (b) c) {fields}")
    assert (process.pid, process.parent, process.command) == (42, 7, "a (b) c")
    ticks = os.sysconf("SC_CLK_TCK")
    assert (process.own, process.ended) == (200 / ticks, 50 / ticks)


def test_a_busy_machine_counts_what_the_hypervisor_took_and_no_waiting() -> None:
    text = "cpu  100 20 30 9000 500 1 2 47 3 4\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert parse_busy(text) == 200 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/a/python -m runengine_server serve --processes 2", "serve"),
        ("/a/python -m tests.bench.peers.bare_grpc 127.0.0.1:1 /tmp", "bare_grpc"),
        ("/a/python -m prefect server start", "prefect"),
        ("/usr/bin/h2load -n 1", "h2load"),
    ],
)
def test_a_process_has_the_name_of_what_it_runs(command: str, name: str) -> None:
    assert name_of(command.split()) == name


SPIN = """
import sys, time
while time.process_time() < 0.15:
    pass
print(flush=True)
sys.stdin.read()
"""


async def test_a_meter_reads_what_children_take_and_what_they_took_that_have_ended() -> None:
    children = []

    async def spun() -> float:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SPIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        await child.stdout.readline()
        children.append(child)
        return 1.0

    async def ended() -> float:
        await children[0].communicate(b"")
        return 1.0

    meter = Meter([])
    try:
        alive = await meter.round(spun, lambda value, seconds: 3)
        name = Path(sys.executable).name
        assert alive.cpu[name] >= 0.15
        assert alive.micros() == pytest.approx(alive.cpu[name] / 3 * 1e6)
    finally:
        if children:
            afterwards = await meter.round(ended, lambda value, seconds: 1)
    assert afterwards.cpu[LOAD] >= 0.1


def test_calls_are_counted_as_said_or_as_answered_or_by_the_rate() -> None:
    assert Generator.counting(60)(2.0, 1.5) == 60
    count = Generator.counting(None)
    assert count(100, 1.5) == 150
    Generator.answered += 7
    assert count(100, 1.5) == 7


H2LOAD = """
requests: 6498 total, 6514 started, 6498 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
traffic: 56.13MB (58856925) total, 19.11KB (19569) headers (space savings 96.28%), 55.80MB ({data}) data
"""


def test_answers_to_h2load_are_refused_unless_all_are_like_the_first() -> None:
    h2load.check(H2LOAD.format(succeeded=6498, failed=0, data=6498 * 9005 - 100), 9005)
    h2load.check(H2LOAD.format(succeeded=6498, failed=0, data=1), None)
    for output in (
        # Without a message, as those are that fail by gRPC's status: one in fifty.
        H2LOAD.format(succeeded=6498, failed=0, data=6368 * 9005),
        H2LOAD.format(succeeded=6400, failed=98, data=6498 * 9005),
        "Failed to connect",
    ):
        with pytest.raises(h2load.Unanswered):
            h2load.check(output, 9005)


def test_the_log_of_h2load_gives_latencies_and_the_time_of_all() -> None:
    latencies, seconds = h2load.parse_log("1000000\t200\t3000\n1000100\t200\t500\n1002000\t200\t2000\n")
    assert latencies == [0.003, 0.0005, 0.002]
    assert seconds == 0.004


def test_a_load_that_needs_h2load_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="apt-get install nghttp2-client"):
        Generator.choose(with_h2load=True)
