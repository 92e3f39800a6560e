"""The gRPC server: our services, health and reflection, one interceptor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from runengine.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    bulk_operation_service_pb2,
    bulk_operation_service_pb2_grpc,
    campaign_service_pb2,
    campaign_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    webhook_service_pb2,
    webhook_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

from runengine_server.auth.clerk import ClerkVerifier
from runengine_server.database.database import Database
from runengine_server.domain.webhook import UrlRules
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.rpc import health
from runengine_server.rpc.artifact_servicer import ArtifactServicer
from runengine_server.rpc.bulk_operation_servicer import BulkOperationServicer
from runengine_server.rpc.campaign_servicer import CampaignServicer
from runengine_server.rpc.in_process import InProcessChannel
from runengine_server.rpc.interceptor import CallInterceptor
from runengine_server.rpc.reflection import add_reflection
from runengine_server.rpc.run_servicer import RunServicer
from runengine_server.rpc.run_watches import RunWatches
from runengine_server.rpc.schedule_servicer import ScheduleServicer
from runengine_server.rpc.served_workflows import ServedWorkflows
from runengine_server.rpc.webhook_servicer import WebhookServicer
from runengine_server.rpc.workflow_servicer import WorkflowServicer

# 256 KiB of JSON is up to 1.4 MB as a Struct (`[1,1,…]`). Within that, trigger_run judges the size.
_MAX_REQUEST_BYTES = 2 * 1024 * 1024
# gRPC enforces the soft limit by chance and the hard one always, unless both are alike.
_MAX_METADATA_BYTES = 16 * 1024
_MAX_PENDING = 1_000_000

# A client may ping once a second, with calls under way or without; by default it is once in five minutes,
# in two hours without calls, and the third ping too early ends its connection. The server's own pings find
# clients that are gone without a word, whose connections and streams would stay for two hours.
_KEEPALIVE = (
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def create_server(
    database: Database,
    artifacts: ArtifactStore,
    verifier: ClerkVerifier,
    served: ServedWorkflows,
    watches: RunWatches,
    on_bulk_operation: Callable[[], None],
    queued_limit: int | None,
    url_rules: UrlRules,
    shares_port: bool = False,
    observes_calls: bool = False,
) -> tuple[grpc.aio.Server, health.HealthServicer, InProcessChannel]:
    """The server, not started, its health service, and a channel to the same services within the process.
    Needs a running event loop. `on_bulk_operation` is called when one has been created. `queued_limit`: how
    many runs a tenant may have queued. `url_rules`: where webhooks may lead. `shares_port`: with other
    processes, each of which gets its share of the connections. `observes_calls`: as of CallInterceptor.
    """
    # One for both, so that its limits are of all calls, however they come.
    interceptor = CallInterceptor(verifier, observes_calls=observes_calls)
    channel = InProcessChannel(interceptor, _MAX_REQUEST_BYTES)
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=_options(shares_port),
    )
    runs = RunServicer(database, served, queued_limit, watches)
    campaigns, workflows = CampaignServicer(database, artifacts), WorkflowServicer(database)
    artifact_servicer = ArtifactServicer(database, artifacts)
    operations = BulkOperationServicer(database, on_bulk_operation)
    webhooks, schedules = WebhookServicer(database, url_rules), ScheduleServicer(database)
    services = [
        file.DESCRIPTOR.services_by_name[name].full_name
        for file, name in (
            (run_service_pb2, "RunService"),
            (campaign_service_pb2, "CampaignService"),
            (artifact_service_pb2, "ArtifactService"),
            (workflow_service_pb2, "WorkflowService"),
            (bulk_operation_service_pb2, "BulkOperationService"),
            (webhook_service_pb2, "WebhookService"),
            (schedule_service_pb2, "ScheduleService"),
        )
    ]
    servicer = health.HealthServicer(services)
    both: tuple[Any, ...] = server, channel
    for each in both:
        run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, each)
        campaign_service_pb2_grpc.add_CampaignServiceServicer_to_server(campaigns, each)
        artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(artifact_servicer, each)
        workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(workflows, each)
        bulk_operation_service_pb2_grpc.add_BulkOperationServiceServicer_to_server(operations, each)
        webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server(webhooks, each)
        schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(schedules, each)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, each)
    add_reflection([*services, health.SERVICE_NAME], server)
    return server, servicer, channel


def _options(shares_port: bool) -> list[tuple[str, int]]:
    return [
        *_KEEPALIVE,
        ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # How much of a message may arrive before a handler asks for it; by default it is megabytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 64 * 1024),
        # The interceptor refuses too many calls as OVERLOADED; gRPC would, from a thousand on, as CANCELLED.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        # Two servers that do not know of each other would share the calls by chance, and hide that the port
        # is taken.
        ("grpc.so_reuseport", int(shares_port)),
    ]
