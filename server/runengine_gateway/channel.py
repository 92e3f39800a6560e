"""What the gateway needs of a channel: a part of grpc.aio's, which a channel within the process has too."""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol


class UnaryRpc(Protocol):
    """A call with one response, for which one waits by `await`; raises AioRpcError."""

    def __await__(self) -> Generator[Any, None, Any]: ...

    async def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What came with the response."""
        ...


class StreamRpc(Protocol):
    """A call with any number of responses. Who waits for it and is cancelled cancels the call."""

    async def initial_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What came before the first response, or nothing."""
        ...

    async def read(self) -> Any:
        """The next response, or grpc.aio.EOF. Raises AioRpcError, and CancelledError after cancel()."""
        ...

    def cancel(self) -> bool:
        """Ends the call, unless it has ended."""
        ...

    def cancelled(self) -> bool:
        """Whether it ended by cancel()."""
        ...

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Has it called with the call, when that has ended."""
        ...


class Channel(Protocol):
    """Calls by the full names of methods, such as `/runengine.v1.RunService/GetRun`. A call is made by the
    request, with `metadata` and `timeout` in seconds. Without a deserializer the response is bytes.
    """

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
    ) -> Callable[..., UnaryRpc]:
        """A method with one response."""
        ...

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
    ) -> Callable[..., StreamRpc]:
        """A method with any number of responses."""
        ...
