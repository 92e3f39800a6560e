"""Hosts on one wire, each a network namespace, which can be cut off while their processes go on.

All of it lies in a network of this process's own, which ends with it: `enter_own_network` first. It needs
root and iproute2.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_BRIDGE, _NETWORK = "wire", "10.77.0"
OWN_ADDRESS = f"{_NETWORK}.1"
EVERYBODY = f"{_NETWORK}.0/24"
_NAMESPACES = "/run/netns"
_INSIDE = "--in-own-network"
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str | None:
    """What there is not here that it needs, in words."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux: it makes network namespaces"
    absent = [each for each in ("ip", "unshare", "mount") if shutil.which(each) is None]
    return f"needs {', '.join(absent)}: install iproute2 and util-linux" if absent else None


def enter_own_network(module: str) -> None:
    """Starts `python -m module` again in place of this process, unless it is there already."""
    if _INSIDE in sys.argv:
        sys.argv.remove(_INSIDE)
        return
    apart = ["unshare", "--net", "--mount", "--propagation", "private"]
    os.execvp("unshare", [*apart, sys.executable, "-m", module, *sys.argv[1:], _INSIDE])


class Host:
    """One host. What is started in `inside()` runs on it."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address = f"{_NETWORK}.{number}"
        self._plug = f"plug-{name}"

    @property
    def mac(self) -> str:
        """Given, so that nobody has to ask for it: a host that is cut off is silent, and not unknown."""
        return _mac(self.number)

    def plug_in(self) -> None:
        """Makes the namespace, and its end of the wire."""
        _ip("netns", "add", self.name)
        peer = ("peer", "name", "eth0", "address", self.mac, "netns", self.name)
        _ip("link", "add", self._plug, "type", "veth", *peer)
        for command in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", self.name, *command)
        _ip("link", "set", self._plug, "up")
        self.heal()

    def knows(self, number: int) -> None:
        """Where to send what is for that address."""
        _ip("-n", self.name, *_neighbour(number, "eth0"))

    def cut(self) -> None:
        """Nothing passes in or out, and nobody is told."""
        _ip("link", "set", self._plug, "nomaster")

    def heal(self) -> None:
        """It is on the wire."""
        _ip("link", "set", self._plug, "master", _BRIDGE)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on the host in the block: for what it starts, and not for an `await`."""
        with open("/proc/thread-self/ns/net") as before, open(f"{_NAMESPACES}/{self.name}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


def wire(*names: str) -> dict[str, Host]:
    """New hosts that reach each other and this process."""
    os.makedirs(_NAMESPACES, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "namespaces", _NAMESPACES], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _BRIDGE, "address", _mac(1), "type", "bridge")
    _ip("addr", "add", f"{OWN_ADDRESS}/24", "dev", _BRIDGE)
    _ip("link", "set", _BRIDGE, "up")
    hosts = [Host(name, number) for number, name in enumerate(names, 11)]
    for host in hosts:
        host.plug_in()
        _ip(*_neighbour(host.number, _BRIDGE))
        for number in (1, *(each.number for each in hosts if each is not host)):
            host.knows(number)
    return {host.name: host for host in hosts}


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _neighbour(number: int, device: str) -> tuple[str, ...]:
    address, mac = f"{_NETWORK}.{number}", _mac(number)
    return "neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, 0x40000000):  # os.setns needs Python 3.12
        raise OSError(ctypes.get_errno(), "setns")
