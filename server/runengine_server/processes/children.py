"""Child processes: `up` and `serve --processes` start, supervise and stop them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time

import structlog

# How long a process may take to end after SIGTERM, before SIGKILL.
_STOP_SECONDS = 6.0

# The pause before a process is started again: it doubles up to the maximum, and starts anew for a process
# that has lived longer than the maximum.
_MIN_RESTART_SECONDS = 0.5
_MAX_RESTART_SECONDS = 30.0

_log = structlog.get_logger()


class ChildFailed(Exception):
    """A process ended before it was ready."""


def _wait_in_thread(
    process: subprocess.Popen[bytes], ended: asyncio.Future[int], loop: asyncio.AbstractEventLoop
) -> None:
    """Waits for the process in a thread, and sets its exit code as the result of `ended`."""

    def set_result() -> None:
        if not ended.done():
            ended.set_result(code)

    code = process.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits for the result
        loop.call_soon_threadsafe(set_result)


class Child:
    """One process, started in a session of its own so that Ctrl-C reaches only its parent.

    `command` is a command of runengine-server with its options. `module` is the module that Python runs; the
    tests have one that prepares the process and then runs runengine_server.
    """

    def __init__(self, command: str, environment: dict[str, str], module: str = "runengine_server") -> None:
        self.command = command
        self._environment = environment
        self._module = module
        self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        self._ended = loop.create_future()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self.command.split()],
                env={**self._environment, "RUNENGINE_PARENT_FD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        # The end of file on the socket would not do: processes that it has forked may hold that open.
        arguments = (self._process, self._ended, loop)
        threading.Thread(target=_wait_in_thread, args=arguments, name="child", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def until_ready(self) -> None:
        """Returns once the process has announced that it is ready. Raises ChildFailed when it ends before."""
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(self._socket, 16))
        try:
            await asyncio.wait({receiving, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done() or not receiving.result():
                await self.until_ended()
                raise ChildFailed(self.command)
        finally:
            receiving.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._ended.done()

    async def until_ended(self) -> int:
        """Waits for the end of the process, and returns its exit code."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """Sends SIGTERM, SIGKILL after six seconds, and returns when the process has ended."""
        if not self.has_ended:
            self._process.terminate()
            await asyncio.wait({self._ended}, timeout=_STOP_SECONDS)
            if not self.has_ended:
                self._process.kill()
            await self.until_ended()
        self._socket.close()

    async def supervise(self) -> None:
        """Starts the process again whenever it ends, after a pause that grows while it does not live long."""
        pause = _MIN_RESTART_SECONDS
        while True:
            started = time.monotonic()
            code = await self.until_ended()
            if time.monotonic() - started > _MAX_RESTART_SECONDS:
                pause = _MIN_RESTART_SECONDS
            else:
                pause = min(pause * 2, _MAX_RESTART_SECONDS)
            _log.warning(
                "process ended; starting it again", command=self.command, exit_code=code, seconds=pause
            )
            await self.stop()
            await self._start_after(pause)

    async def _start_after(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                self._start()
                return
            except OSError as error:
                _log.error("process cannot be started", command=self.command, error=type(error).__name__)
