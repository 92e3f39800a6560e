"""Which step each error of an execution came from."""

from __future__ import annotations

from runengine_server.worker.graph.failures import is_retryable, step_code
from runengine_server.worker.graph.steps import BegunStep


class Causes:
    """Errors that no handler of a graph took, with the step that each came from, innermost first."""

    def __init__(self) -> None:
        self._found: list[tuple[BaseException, BegunStep]] = []

    def add(self, error: BaseException, step: BegunStep) -> None:
        """The error came from the step, unless it is known to have come from one within it."""
        self._found.append((error, step))

    def of(self, error: BaseException) -> BegunStep | None:
        """The step that the error came from."""
        return next((step for each, step in self._found if each is error), None)

    def words_of(self, step: BegunStep, error: BaseException, described: str) -> tuple[str, str, bool]:
        """Code and message of the step that failed with `error`, and whether another execution may help."""
        cause = self.of(error)
        if cause is None or step.id not in (each.id for each in cause.around()):
            return step_code(error), described, is_retryable(error, step.policies)
        message = f"The step {cause.name!r} within it failed: {described}"
        return "STEP_FAILED", message, is_retryable(error, cause.policies)
