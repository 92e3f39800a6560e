"""The addresses on which processes listen."""

from __future__ import annotations

import socket

from runengine_server.settings import SettingsError


def bind(variable: str, address: str, shares_port: bool = False) -> socket.socket:
    """A listening socket on HOST:PORT; with `shares_port` one of several, of which each gets its share of the
    connections. Raises SettingsError, which names the variable, when the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(
            (host.strip("[]"), int(port)), family=family, backlog=1024, reuse_port=shares_port
        )
    except OSError:
        raise address_taken(variable, address) from None


def address_taken(variable: str, address: str) -> SettingsError:
    """The error of an address that cannot be bound, usually because another process listens on it."""
    return SettingsError(f"{variable}: {address} cannot be used, most likely it is taken; choose another")
