"""What a process counts for Prometheus, each by its name; processes/metrics_server.py serves it.

No label names a tenant, a run or a step, of which there is no end: labels are methods, codes, statuses, and
the names of workflows. What happens in a worker is counted whether anybody reads it or not, which takes 3 µs
of a step, with a span that goes nowhere; calls, of which `serve` has thousands a second, only where they are
read or traced: 14 µs of some 300.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from runengine_server.database.database import Database

# A read takes a millisecond, a trigger waits for the disk; after nine seconds a statement is given up.
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# From a graph without a model to one that waits for many.
_RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# serve

CALLS = Counter("runengine_calls", "Calls that have ended, by method and gRPC code.", ["method", "code"])
CALL_SECONDS = Histogram(
    "runengine_call_duration_seconds",
    "How long calls took, without those of streams.",
    ["method"],
    buckets=_CALL_SECONDS,
)
CALLS_IN_FLIGHT = Gauge(
    "runengine_calls_in_flight", "Calls under way, by kind: calls, watches or downloads.", ["kind"]
)
RESPONSES = Counter("runengine_http_responses", "Responses of REST, by status.", ["status"])

# worker

CLAIMED = Counter("runengine_runs_claimed", "Queued runs that this worker has claimed.", ["workflow"])
TAKEN_OVER = Counter(
    "runengine_runs_taken_over",
    "Runs whose lease had ended, or that were handed back, which this worker goes on with.",
    ["workflow"],
)
RUNS_HANDED_BACK = Counter("runengine_runs_handed_back", "Runs that this worker has handed back.")
LEASES_LOST = Counter("runengine_leases_lost", "Leases of this worker that ended or were taken from it.")
FENCED = Counter(
    "runengine_runs_fenced",
    "Executions whose writes were refused, because the run was cancelled or another worker's.",
)
RUNS_ENDED = Counter(
    "runengine_runs_ended",
    "Executions of runs that have ended: completed, failed (with its code) or waiting for somebody.",
    ["workflow", "status", "code"],
)
RUN_SECONDS = Histogram(
    "runengine_run_duration_seconds",
    "How long attempts took that have completed or failed, from their first claim.",
    ["workflow"],
    buckets=_RUN_SECONDS,
)
STEPS = Counter("runengine_steps", "Executions of steps: returned, cached or failed.", ["workflow", "status"])
RUNS_HELD = Gauge("runengine_runs_held", "Runs that this worker executes.")
CONCURRENCY = Gauge("runengine_worker_concurrency", "How many runs this worker executes at most.")
HEARTBEAT_FAILURES = Counter("runengine_heartbeat_failures", "Heartbeats that failed.")
LOOP_BLOCKED = Counter(
    "runengine_event_loop_blocked", "How often a node has blocked the worker's event loop for two seconds."
)
# Of one worker among all, see worker/queue_watch.py.
QUEUED = Gauge("runengine_queued_runs", "Runs that are queued and due, of all tenants.", ["workflow"])
OLDEST_QUEUED = Gauge(
    "runengine_oldest_queued_seconds", "For how long the oldest of them has been queued.", ["workflow"]
)
WAITING = Gauge("runengine_waiting_runs", "Runs that wait for somebody, of all tenants.", ["workflow"])

# all that have a database

DATABASE_UP = Gauge("runengine_database_up", "1 while the database responds and takes writes, else 0.")


class DatabaseMetrics(Collector):
    """The connections and notifications of a process, read when they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Of the moment. Called in a thread of its own."""
        use = self._database.pool_use
        connections = GaugeMetricFamily(
            "runengine_database_connections", "Connections of the pool, by state.", labels=["state"]
        )
        connections.add_metric(["busy"], use.busy)
        connections.add_metric(["idle"], use.idle)
        yield connections
        yield GaugeMetricFamily(
            "runengine_database_connections_max", "How many connections the pool may have.", use.size
        )
        yield GaugeMetricFamily(
            "runengine_database_waiting", "Statements that wait for a connection.", use.waiting
        )
        yield CounterMetricFamily(
            "runengine_notifications_sent", "Notifications sent after commits.", self._database.notifier.sent
        )
