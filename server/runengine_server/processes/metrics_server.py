"""Serves what a process counts for Prometheus, where it was told an address."""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, disable_created_metrics, start_http_server

from runengine_server.database.database import Database
from runengine_server.metrics import DatabaseMetrics
from runengine_server.processes.addresses import address_taken
from runengine_server.settings import Settings, SettingsError

_VARIABLE = "RUNENGINE_METRICS_ADDRESS"


def serve_metrics(settings: Settings, database: Database | None = None) -> bool:
    """Serves /metrics from a thread until the process ends, unless no address is set. Returns whether it is.
    Raises SettingsError when the address cannot be bound.
    """
    if settings.metrics_address is None:
        return False
    disable_created_metrics()  # type: ignore[no-untyped-call]
    if database is not None:
        REGISTRY.register(DatabaseMetrics(database))
    host, _, port = settings.metrics_address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"))
    except OSError:
        raise address_taken(_VARIABLE, settings.metrics_address) from None
    # A child that a node forks may live longer than the worker, whose successor needs the port.
    os.register_at_fork(after_in_child=server.socket.close)
    return True


def metrics_environment(settings: Settings, place: int) -> dict[str, str]:
    """What the environment of one of several processes has of its own, which cannot share the port: the one
    at `place` has the port that many further on. Raises SettingsError where there is none.
    """
    if settings.metrics_address is None:
        return {}
    host, _, port = settings.metrics_address.rpartition(":")
    if int(port) + place > 65535:
        raise SettingsError(f"{_VARIABLE}: there are not enough ports after {port}; choose another")
    return {_VARIABLE: f"{host}:{int(port) + place}"}
