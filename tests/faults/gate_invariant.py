"""A gate (an interrupt) is passed by a resume alone, and each resume acts once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tests.faults.facts import RESOLUTION, Call, Facts, Row, grouped

# The node before which a workflow always stops.
GATED = {"storm-gated": "second", "soak-gate": "beyond"}

# A resume that was answered so has not happened; after any other error, nobody knows.
REFUSALS = ("RUN_NOT_WAITING", "INVALID_ARGUMENT", "RUN_NOT_FOUND", "IDEMPOTENCY_KEY_REUSED")


@dataclass(frozen=True)
class Resume:
    """What somebody gave to a run, in one call or in several under one key: its value, which nobody else has
    given, and the gates that it was for.
    """

    value: str
    calls: tuple[Call, ...]

    @property
    def began(self) -> float:
        return min(call.began for call in self.calls)

    @property
    def run(self) -> str:
        return str(self.calls[0].asked["run"])

    @property
    def gates(self) -> list[str]:
        return list(self.calls[0].asked["gates"])

    @property
    def applied_in(self) -> int | None:
        """The attempt of the run that it was acknowledged to have been for."""
        return next((call.runs[0]["attempt"] for call in self.calls if call.succeeded), None)

    @property
    def may_have_acted(self) -> bool:
        return any(
            call.answer is None or call.succeeded or call.answer["reason"] not in REFUSALS
            for call in self.calls
        )


def i14_gates_are_passed_by_resumes_alone(facts: Facts) -> list[str]:
    """Each value that a node got was given by a resume of that gate, all executions of an attempt got the
    same, no node got past a gate before its run was resumed, and of several resumes one acted.
    """
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in facts.calls:
        if call.asked["method"] == "resume" and "resume" in call.asked:
            calls[call.asked["resume"]].append(call)
    resumes = [Resume(value, tuple(several)) for value, several in calls.items()]
    return [*_values(facts, resumes), *_too_early(facts), *_acted_twice(facts, resumes)]


def _values(facts: Facts, resumes: list[Resume]) -> list[str]:
    found = []
    given = {(resume.run, gate, resume.value): resume for resume in resumes for gate in resume.gates}
    for run_id, notes in grouped(facts.notes("passed"), "run").items():
        got: dict[tuple[int, str], set[str]] = defaultdict(set)
        for note in notes:
            got[note["attempt"], note["gate"]].add(str(note["value"]))
            resume = given.get((run_id, note["gate"], note["value"]))
            if resume is None or not resume.may_have_acted:
                was = "refused" if resume else "given by nobody"
                found.append(f"run {run_id}: {note['gate']} was passed with {note['value']}, which was {was}")
            elif not _is_resumed(facts, run_id, resume.began, note["at"]):
                found.append(f"run {run_id}: {note['gate']} was passed before the run was resumed")
        found += [
            f"run {run_id}: in attempt {attempt} {gate} was passed with {sorted(values)}"
            for (attempt, gate), values in got.items()
            if len(values) > 1
        ]
    return found


def _is_resumed(facts: Facts, run_id: str, began: float, at: float) -> bool:
    return any(
        began - RESOLUTION <= event["at"] <= at + RESOLUTION for event in facts.resumptions.get(run_id, [])
    )


def _too_early(facts: Facts) -> list[str]:
    """A gate before a node is one of its checkpoint, and is shut again in each attempt."""
    found = []
    for run_id, notes in facts.entered.items():
        run = facts.run.get(run_id)
        if run is None or (gated := GATED.get(run["workflow_name"])) is None:
            continue
        resumptions = facts.resumptions.get(run_id, [])
        found += [
            f"run {run_id}: {gated} was entered before the run was resumed"
            for note in notes
            if note["node"] == gated
            and not any(_is_before(event, note["attempt"], note["at"]) for event in resumptions)
        ]
    return found


def _is_before(event: Row, attempt: int, at: float) -> bool:
    return bool(event["attempt"] == attempt and event["at"] <= at + RESOLUTION)


def _acted_twice(facts: Facts, resumes: list[Resume]) -> list[str]:
    found = []
    applied: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    known: dict[str, int] = defaultdict(int)
    possible: dict[str, int] = defaultdict(int)
    for resume in resumes:
        possible[resume.run] += resume.may_have_acted
        if (attempt := resume.applied_in) is not None:
            known[resume.run] += 1
            for gate in resume.gates:
                applied[resume.run, attempt, gate].append(resume.value)
    found += [
        f"run {run_id}: {gate} of attempt {attempt} was resumed with {sorted(values)}"
        for (run_id, attempt, gate), values in applied.items()
        if len(values) > 1
    ]
    for run_id in facts.run:
        count = len(facts.resumptions.get(run_id, []))
        if not known[run_id] <= count <= possible[run_id]:
            found.append(
                f"run {run_id} was RESUMED {count} times by {known[run_id]} to {possible[run_id]} resumes"
            )
    return found
