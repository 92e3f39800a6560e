"""How is an error sent? As the options of its reason say, in error_reason.proto."""

from typing import NamedTuple

import grpc
from runengine.v1.error_reason_pb2 import ErrorReason, grpc_code, http_status, returned_by

_PREFIX = "ERROR_REASON_"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Reason(NamedTuple):
    """What the options of an ErrorReason say."""

    full_name: str
    code: grpc.StatusCode | None  # None where only REST has this reason
    http_status: int
    returned_by: frozenset[str]  # names of methods; `*` for all

    def comes_from(self, method: str) -> bool:
        """Whether the method of this name may return it."""
        return "*" in self.returned_by or method in self.returned_by


def _read() -> dict[str, Reason]:
    reasons = {}
    enum = ErrorReason.DESCRIPTOR
    for value in enum.values:
        said = value.GetOptions().Extensions
        if said[http_status]:
            code = _CODES[said[grpc_code]] if said[grpc_code] else None
            reasons[value.name.removeprefix(_PREFIX)] = Reason(
                f"{enum.full_name}.{value.name}", code, said[http_status], frozenset(said[returned_by])
            )
    return reasons


# By the word that ErrorInfo and REST carry: RUN_NOT_FOUND.
REASONS = _read()
