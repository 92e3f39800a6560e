"""The channel options of this client and of the gateway: turns, keepalive, reconnection, message sizes."""

from __future__ import annotations

import ipaddress
import re

# A network may drop a connection without a reset, which TCP alone notices after fifteen minutes. So a ping is
# sent when nothing was received for 4 s, and 5 s later the connection is given up: within 10 s the next call
# has a new one. Pings are sent without calls too: they keep the network from dropping the connection, and
# find a dead one before a call does. gRPC waits `ping_timeout_ms`, by default a minute, even if
# `keepalive_timeout_ms` is shorter (grpcio 1.85.1), and it stops after `max_pings_without_data`, by default
# two, unless that is 0.
PING_SECONDS = 4
PING_TIMEOUT_SECONDS = 5

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # A server that has returned is found within a second, and an attempt to connect is given up after 5 s;
    # the defaults are two minutes and 20 s.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    # The server limits its responses: a page of 100 runs with large payloads, or a status with many
    # violations, exceeds gRPC's own 4 MiB and 8 KiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 256 * 1024),
    ("grpc.absolute_max_metadata_size", 256 * 1024),
)

# Calls take turns on all servers that the address stands for; by default all go to the first that it finds.
_IN_TURNS = (*_OPTIONS, ("grpc.lb_policy_name", "round_robin"))

_HOST = re.compile(r"(?:ipv[46]:)?\[?([^,]*?)\]?:[0-9]+")


def channel_options(address: str) -> tuple[tuple[str, int | str], ...]:
    """The options of a channel to the address. Where that is certainly one server, no turns are taken: then a
    server that has come back is connected to when it is called, where a channel that takes turns fails calls
    for up to a second, until it tries again by itself.
    """
    return _OPTIONS if _is_one_server(address) else _IN_TURNS


def _is_one_server(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    if (match := _HOST.fullmatch(address)) is None:
        return False
    try:
        ipaddress.ip_address(match[1])
    except ValueError:
        return match[1] == "localhost"
    return True
