"""The history survives its writers, and the checker finds each invariant broken where it is."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.facts import Facts
from tests.faults.history import History
from tests.faults.invariants import INVARIANTS, violations
from tests.faults.sound_history import (
    CAMPAIGN,
    GATED,
    NEW,
    OLD,
    answer,
    call,
    entered,
    event,
    passed,
    resume,
    seen,
    sound,
    write,
)
from tests.support.stack import environment

Tampering = Callable[[Facts], object]


def cancelled_although_completed(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "cancel", run=NEW), answer(8, 7.9, run=seen(NEW, "cancelled"))]


def ends_twice(facts: Facts) -> None:
    facts.rows.events.append(event(NEW, 8.0, "running", "completed", "COMPLETED", "worker:host:2"))


def zombie_was_heard(facts: Facts) -> None:
    facts.history.append(write(5.5, 1, OLD, 1, "applied"))


def zombie_ends_the_run(facts: Facts) -> None:
    facts.rows.events[-1]["actor"] = "worker:host:1"


def claim_without_epoch(facts: Facts) -> None:
    facts.rows.runs[0]["epoch"] = 1


def lost_acknowledged(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "trigger"), answer(8, 7.9, run=seen("run-3", "queued"))]


def two_answers_to_a_key(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "trigger", key=f"key-{OLD}"), answer(8, 7.9, run=seen(NEW, "queued"))]


def two_runs_of_a_key(facts: Facts) -> None:
    facts.rows.runs[1]["key"] = f"key-{OLD}"


def still_running(facts: Facts) -> None:
    facts.rows.runs[0]["status"] = "running"


def campaign_went_back(facts: Facts) -> None:
    facts.history += [
        call(8, 7.8, "get_campaign", campaign=CAMPAIGN),
        answer(8, 7.9, campaign={"id": CAMPAIGN, "latest": OLD}),
    ]


def campaign_at_an_older_run(facts: Facts) -> None:
    facts.rows.campaigns[0]["latest_run_id"] = OLD


def campaign_before_its_run(facts: Facts) -> None:
    facts.history += [
        call(8, 3.0, "get_campaign", campaign=CAMPAIGN),
        answer(8, 3.1, campaign={"id": CAMPAIGN, "latest": OLD}),
    ]


def run_before_its_campaign(facts: Facts) -> None:
    facts.history += [
        call(8, 6.21, "get_campaign", campaign=CAMPAIGN),
        answer(8, 6.22, campaign={"id": CAMPAIGN, "latest": None}),
    ]


def wrong_counter(facts: Facts) -> None:
    facts.rows.counts[0]["completed"] = 3


def bundle_of_another(facts: Facts) -> None:
    facts.rows.campaigns[0]["bundle_url"] = f"http://runengine/artifacts/artifact-{OLD}"


def ran_after_completion(facts: Facts) -> None:
    facts.rows.events.insert(-1, event(OLD, 6.95, "running", "running", "TAKEN_OVER", "worker:host:2"))
    facts.rows.runs[0]["epoch"] = 3
    facts.history.append(entered(6.96, 2, OLD, "first:2:c"))


def ran_oftener_than_claimed(facts: Facts) -> None:
    facts.history.append(entered(3.3, 2, NEW, "first:2:d"))


def ran_under_another_key(facts: Facts) -> None:
    facts.history[8]["key"] = "another:step-run-1"


def ran_on_a_stranger(facts: Facts) -> None:
    facts.history[6]["pid"] = 7


def two_results_of_a_step(facts: Facts) -> None:
    facts.history[5]["saw"], facts.history[8]["saw"] = ["zero:1:a"], ["zero:1:b"]


def transition_is_missing(facts: Facts) -> None:
    del facts.rows.events[3]


def seen_to_be_taken_back(facts: Facts) -> None:
    facts.history += [call(8, 7.8, "get", run=NEW), answer(8, 7.9, run=seen(NEW, "running"))]


def told_another_timeline(facts: Facts) -> None:
    facts.history += [
        call(8, 7.8, "events", run=NEW),
        answer(8, 7.9, events=[[None, "queued", 1, "TRIGGERED"], ["queued", "cancelled", 1, "CANCELLED"]]),
    ]


def told_to_another_tenant(facts: Facts) -> None:
    facts.history[-3].update(ok=True, run=seen(NEW))


def told_apart_from_nothing(facts: Facts) -> None:
    facts.history[-3].update(reason="RUN_ACTIVE")


def counted_for_another_tenant(facts: Facts) -> None:
    facts.history[-1]["list"] = {"runs": [], "total": 0, "counts": {"completed": 2}}


def late_answer(facts: Facts) -> None:
    facts.history[1]["seconds"] = 4.6


def internal_error(facts: Facts) -> None:
    facts.history[-3].update(reason="INTERNAL")


def of_gated(facts: Facts, what: str) -> Any:
    return next(note for note in facts.history if note["what"] == what and note.get("run") == GATED)


def events_of_gated(facts: Facts, reason: str) -> list[Any]:
    return [row for row in facts.rows.events if row["run_id"] == GATED and row["reason"] == reason]


def waited_without_epoch(facts: Facts) -> None:
    facts.rows.runs[2]["epoch"] = 3


def waited_for_another(facts: Facts) -> None:
    events_of_gated(facts, "WAITING")[1]["actor"] = "worker:host:1"


def heard_while_it_waited(facts: Facts) -> None:
    facts.history.append(write(3.7, 2, GATED, 1, "applied"))


def claimed_by_waiting(facts: Facts) -> None:
    facts.history.append({"at": 3.5, "pid": 2, "what": "claimed", "run": GATED, "epoch": 2})


def ended_while_it_waited(facts: Facts) -> None:
    for reason in ("RESUMED", "TAKEN_OVER"):
        facts.rows.events.remove(events_of_gated(facts, reason)[-1])


def resumed_without_waiting(facts: Facts) -> None:
    facts.rows.events.remove(events_of_gated(facts, "WAITING")[-1])


def went_on_without_a_claim(facts: Facts) -> None:
    facts.rows.events.remove(events_of_gated(facts, "TAKEN_OVER")[-1])


def passed_with_a_value_of_nobody(facts: Facts) -> None:
    of_gated(facts, "passed")["value"] = "green"


def passed_with_a_refused_value(facts: Facts) -> None:
    of_gated(facts, "passed")["value"] = "blue"


def passed_with_the_value_of_another_gate(facts: Facts) -> None:
    of_gated(facts, "passed")["value"] = "passes"


def passed_with_two_values(facts: Facts) -> None:
    # What came of this resume, nobody knows.
    facts.history += [resume(24, 4.66, "second:0", "green"), passed(4.96, "green")]


def passed_before_it_was_resumed(facts: Facts) -> None:
    of_gated(facts, "passed")["at"] = 4.66


def entered_before_it_was_resumed(facts: Facts) -> None:
    of_gated(facts, "entered")["at"] = 3.2


def resumed_by_nobody(facts: Facts) -> None:
    facts.history = [note for note in facts.history if note.get("call") != 21]


def resumed_in_vain(facts: Facts) -> None:
    facts.history += [resume(24, 3.6, "at second", "green"), answer(24, 3.7, run=seen(GATED, "running"))]


def both_resumes_acted(facts: Facts) -> None:
    answered = next(each for each in facts.history if each["what"] == "answer" and each["call"] == 23)
    answered.update(ok=True, run=seen(GATED, "running"))
    facts.rows.events.insert(-1, event(GATED, 5.6, "running", "running", "RESUMED"))


TAMPERINGS: dict[Tampering, str] = {
    lost_acknowledged: "I1",
    two_answers_to_a_key: "I2",
    two_runs_of_a_key: "I2",
    still_running: "I3",
    ends_twice: "I4",
    zombie_was_heard: "I5",
    zombie_ends_the_run: "I5",
    claim_without_epoch: "I5",
    cancelled_although_completed: "I6",
    campaign_went_back: "I7",
    campaign_at_an_older_run: "I7",
    campaign_before_its_run: "I7",
    run_before_its_campaign: "I7",
    wrong_counter: "I7",
    bundle_of_another: "I7",
    ran_after_completion: "I8",
    ran_oftener_than_claimed: "I8",
    ran_under_another_key: "I8",
    ran_on_a_stranger: "I8",
    two_results_of_a_step: "I8",
    transition_is_missing: "I9",
    seen_to_be_taken_back: "I9",
    told_another_timeline: "I9",
    told_to_another_tenant: "I10",
    told_apart_from_nothing: "I10",
    counted_for_another_tenant: "I10",
    late_answer: "I11",
    internal_error: "I11",
    waited_without_epoch: "I5",
    waited_for_another: "I5",
    heard_while_it_waited: "I5",
    claimed_by_waiting: "I5",
    ended_while_it_waited: "I9",
    resumed_without_waiting: "I9",
    went_on_without_a_claim: "I9",
    passed_with_a_value_of_nobody: "I14",
    passed_with_a_refused_value: "I14",
    passed_with_the_value_of_another_gate: "I14",
    passed_with_two_values: "I14",
    passed_before_it_was_resumed: "I14",
    entered_before_it_was_resumed: "I14",
    resumed_by_nobody: "I14",
    resumed_in_vain: "I14",
    both_resumes_acted: "I14",
}


def test_a_sound_history_has_no_violations() -> None:
    assert violations(sound()) == []


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_a_history_that_was_tampered_with_is_found(tamper: Tampering) -> None:
    facts = copy.deepcopy(sound())
    tamper(facts)
    assert TAMPERINGS[tamper] in {words.partition(":")[0] for words in violations(facts)}


def test_each_invariant_can_fail() -> None:
    assert set(TAMPERINGS.values()) == set(INVARIANTS)


def test_the_notes_of_a_killed_process_stay(tmp_path: Path) -> None:
    path = tmp_path / "history"
    noting = (
        "import os, signal\n"
        "from tests.faults.history import ours\n"
        "for number in range(100): ours.note('effect', number=number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environ = environment(HISTORY=str(path))
    processes = [subprocess.Popen([sys.executable, "-c", noting], env=environ) for _ in range(3)]
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 3
    history = History(path)
    notes = history.read()
    for process in processes:
        assert [note["number"] for note in notes if note["pid"] == process.pid] == list(range(100))
    # A line that is being written is read when it is whole.
    with open(path, "ab") as file:
        file.write(b'{"what": "eff')
        file.flush()
        assert len(history.read()) == 300
        file.write(b'ect"}\n')
    assert history.read()[-1] == {"what": "effect"}
    history.close()
    assert os.path.getsize(path) > 0
