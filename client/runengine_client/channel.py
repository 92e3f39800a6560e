"""How a connection to the run engine is kept, and found dead: for this client and for the gateway."""

from __future__ import annotations

# A network may forget a connection without a word; TCP alone finds out after fifteen minutes. So a ping
# goes out when nothing has come in for 4 s, and 5 s later the connection is given up: within 10 s the next
# call has a new one. Also while there are no calls, for that keeps networks from forgetting, and finds the
# connection dead before a call does. gRPC waits `ping_timeout_ms`, a minute, for a ping, whatever shorter
# time `keepalive_timeout_ms` says (grpcio 1.85.1); and stops after two pings without data, unless 0.
PING_SECONDS = 4
PING_TIMEOUT_SECONDS = 5

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_SECONDS * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # A server that is back is found within a second, and a connection that does not come about is given up
    # after 5 s; by default they are two minutes and 20 s.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),
    # The server limits its responses: a page of 100 runs with large payloads, or a status with many
    # violations, exceeds gRPC's own 4 MiB and 8 KiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 256 * 1024),
    ("grpc.absolute_max_metadata_size", 256 * 1024),
)
