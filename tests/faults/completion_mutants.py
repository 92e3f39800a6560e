"""The guards of runs that complete together, each taken out."""

from __future__ import annotations

from tests.faults.judging import mutant_of
from tests.faults.mutations import rewriting

_COMPLETIONS = "integration/test_completions.py::"
_LOST = tuple(f"{_COMPLETIONS}test_a_run_that_is_lost_loses_no_other[{tenants}]" for tenants in (1, 3))


COMPLETIONS = (
    mutant_of(
        "fence of each completion",
        rewriting(["complete_runs"], " AND epoch = _epochs[number]", ""),
        *_LOST,
    ),
    mutant_of(
        "place of a run that completes twice",
        rewriting(
            ["complete_runs"],
            "_outputs[places[array_position(held, id)]]",
            "_outputs[array_position(_ids, id)]",
        ),
        *_LOST,
    ),
    mutant_of(
        "steps of a completion that was lost",
        rewriting(["complete_runs"], "WHERE place = ANY(places)", ""),
        *_LOST,
    ),
    mutant_of(
        "campaign of a completion that was lost",
        rewriting(["complete_runs"], "number = ANY(places) AND ", ""),
        *_LOST,
    ),
    mutant_of(
        "counts of completions",
        rewriting(["complete_runs"], "'completed');\n    PERFORM drop", "'failed');\n    PERFORM drop"),
        *_LOST,
    ),
)
