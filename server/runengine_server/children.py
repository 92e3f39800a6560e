"""Processes of ours that another one starts, keeps, and stops."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time

import structlog

_STOP_SECONDS = 6.0
_RESTART_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger()


class ChildFailed(Exception):
    """A process ended before it was ready."""


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
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self.command.split()],
                env={**self._environment, "RUNENGINE_PARENT_FD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def until_ready(self) -> None:
        """Returns once it does its work. Raises ChildFailed when it ended instead."""
        if not await asyncio.get_running_loop().sock_recv(self._socket, 16):
            await self.until_ended()
            raise ChildFailed(self.command)

    async def until_ended(self) -> int:
        """Its exit code. The end of file on its socket is the event; wait() only collects it."""
        while await asyncio.get_running_loop().sock_recv(self._socket, 16):
            pass
        return await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
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
