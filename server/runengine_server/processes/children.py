"""Processes of ours that another one starts, keeps, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time

import structlog

_STOP_SECONDS = 6.0
_RESTART_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger()


class ChildFailed(Exception):
    """A process ended before it was ready."""


def _collect(
    process: subprocess.Popen[bytes], ended: asyncio.Future[int], loop: asyncio.AbstractEventLoop
) -> None:
    def tell() -> None:
        if not ended.done():
            ended.set_result(code)

    code = process.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
        loop.call_soon_threadsafe(tell)


class Child:
    """One process, started in a session of its own so that Ctrl-C reaches only the one that started it.

    `command` is one of runengine-server's, with its options. `module` is what Python runs; the tests have one
    that prepares the process before it is the product.
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
        # Not the end of file on the socket: what the process has forked may hold that open.
        waiting = (self._process, self._ended, loop)
        threading.Thread(target=_collect, args=waiting, name="child", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def until_ready(self) -> None:
        """Returns once it does its work. Raises ChildFailed when it ended instead."""
        hearing = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(self._socket, 16))
        try:
            await asyncio.wait({hearing, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done() or not hearing.result():
                await self.until_ended()
                raise ChildFailed(self.command)
        finally:
            hearing.cancel()

    async def until_ended(self) -> int:
        """Its exit code."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it has ended."""
        if not self._ended.done():
            self._process.terminate()
            await asyncio.wait({self._ended}, timeout=_STOP_SECONDS)
            if not self._ended.done():
                self._process.kill()
            await self.until_ended()
        self._socket.close()

    async def keep(self) -> None:
        """Starts it again whenever it ends, each time after a longer pause if it does not live long."""
        pause = _RESTART_SECONDS
        while True:
            started = time.monotonic()
            code = await self.until_ended()
            lived = time.monotonic() - started
            pause = (
                _RESTART_SECONDS if lived > _LONGEST_PAUSE_SECONDS else min(pause * 2, _LONGEST_PAUSE_SECONDS)
            )
            _log.warning(
                "process ended; starting it again", command=self.command, exit_code=code, seconds=pause
            )
            await self.stop()
            while True:
                await asyncio.sleep(pause)
                try:
                    self._start()
                    break
                except OSError as error:
                    _log.error("process cannot be started", command=self.command, error=type(error).__name__)
