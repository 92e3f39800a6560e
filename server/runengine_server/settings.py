"""The settings of a process, read from the environment and checked before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runengine_server.database.postgres_url import parse_postgres_url
from runengine_server.domain.webhook import UrlRules

SAMPLE = "runengine_samples.campaign_bundle:WORKFLOWS"

# A state is stored by one statement, and a statement may take ten seconds.
DEFAULT_MAX_STATE_BYTES = 16 * 1024 * 1024

DEFAULT_STEP_DATA_BYTES = 16 * 1024


class SettingsError(Exception):
    """A setting is missing or wrong. The message is one line that says what to do."""


class Settings(BaseSettings):
    """Every `RUNENGINE_…` variable. docs/reference/settings.md describes each."""

    model_config = SettingsConfigDict(env_prefix="RUNENGINE_", frozen=True, extra="ignore")

    database_url: str | None = None
    owner_database_url: str | None = None
    listen_database_url: str | None = None
    state_dir: Path = Path(".runengine")
    artifacts_url: str | None = None
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    grpc_address: str = "127.0.0.1:50051"
    rest_address: str = "127.0.0.1:8080"
    public_url: str | None = None
    # AWS takes no more than seven days.
    bundle_url_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] | None = None
    metrics_address: str | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    clerk_issuer: str | None = None
    clerk_jwt_key: str | None = None
    clerk_jwks_url: str | None = None
    clerk_authorized_parties: Annotated[tuple[str, ...], NoDecode] = ()
    machines: Annotated[Mapping[str, tuple[str, ...]], NoDecode] = {}

    workflows: Annotated[tuple[str, ...], NoDecode] = (SAMPLE,)
    skip_unusable_workflows: bool = False
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30
    worker_concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 3
    blocked_seconds: Annotated[float, Field(ge=1, le=3600)] = 30
    dispatch: Literal["postgres", "temporal"] = "postgres"
    temporal_task_queue: Annotated[str, Field(min_length=1, max_length=200)] = "runengine"
    max_state_bytes: Annotated[int, Field(ge=1024, le=512 * 1024 * 1024)] = DEFAULT_MAX_STATE_BYTES
    step_data_bytes: Annotated[int, Field(ge=0, le=1024 * 1024)] = DEFAULT_STEP_DATA_BYTES
    run_timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    step_timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    # Counting the queued runs reads each of them: 100,000 take 10 ms.
    tenant_queued_limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    tenant_running_limit: Annotated[int, Field(ge=1, le=100_000)] | None = None

    webhook_allow_http: bool = False
    webhook_allow_private: bool = False
    webhook_timeout_seconds: Annotated[float, Field(ge=0.1, le=60)] = 10

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("clerk_authorized_parties", "cors_origins", "workflows", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        # An empty value was hardly meant as the default, which for parties is "any".
        if not parts:
            raise ValueError("names nothing; leave it out for the default")
        return parts

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _is_origin(origin):
                raise ValueError(
                    f"{origin!r} must be an origin as a browser sends it, such as https://shop.example or "
                    "http://localhost:5173: in lower case, without a path, a * or the scheme's own port"
                )
        return value

    @field_validator("machines", mode="before")
    @classmethod
    def _are_machines(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            machines = json.loads(value or "{}", object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError):
            machines = None
        if not isinstance(machines, dict) or not all(map(_is_machine, machines, machines.values())):
            raise ValueError('must be JSON such as {"mch_1": ["org_a", "org_b"]}: a machine and its tenants')
        return machines

    @field_validator("grpc_address", "rest_address", "metrics_address")
    @classmethod
    def _is_host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
        return value

    @field_validator("database_url", "owner_database_url", "listen_database_url")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        if value is not None:
            parse_postgres_url(value)
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _is_store(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"file:///[^?#]+|(s3|gs)://[\w.-]+(/[^?#]*)?", value):
            raise ValueError(
                "must be s3://bucket/prefix, gs://bucket/prefix or file:///directory; credentials are taken "
                "from the environment"
            )
        return value

    @field_validator("workflows")
    @classmethod
    def _are_attributes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not re.fullmatch(r"[\w.]+:\w+", entry) and not entry.endswith(".json"):
                raise ValueError(
                    f"{entry!r} must be module:attribute, such as shop.graphs:WORKFLOWS, "
                    "or the path of a langgraph.json"
                )
        return value

    @property
    def serves_rest(self) -> bool:
        """Whether `serve` serves REST: where it was told an address. The default is the gateway's alone."""
        return "rest_address" in self.model_fields_set

    @property
    def url_rules(self) -> UrlRules:
        """Where webhooks may lead."""
        return UrlRules(self.webhook_allow_http, self.webhook_allow_private)

    @property
    def artifact_url_base(self) -> str:
        """The URL to which `/artifacts/{id}` is appended."""
        return (self.public_url or f"http://{self.rest_address}").rstrip("/")

    @property
    def artifact_bucket(self) -> str | None:
        """The URL of the bucket of the artifacts' bytes; None where they are in a directory."""
        return None if (self.artifacts_url or "file:").startswith("file:") else self.artifacts_url

    @property
    def artifact_directory(self) -> Path:
        """The directory of the artifacts' bytes, where they are in one."""
        if self.artifacts_url is None or self.artifact_bucket is not None:
            return self.state_dir / "artifacts"
        return Path(unquote(self.artifacts_url.removeprefix("file://")))


def _is_origin(text: str) -> bool:
    host = r"(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\])"
    match = re.fullmatch(rf"(https?)://{host}(?::([1-9][0-9]{{0,4}}))?", text)
    if match is None or int(match[2] or 0) > 65535:
        return False
    return match[2] != {"http": "80", "https": "443"}[match[1]]


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated name")
    return found


def _is_machine(machine: str, tenants: object) -> bool:
    return (
        re.fullmatch(r"mch_[\x21-\x7e]{1,251}", machine) is not None
        and isinstance(tenants, list)
        and all(isinstance(each, str) and re.fullmatch(r"[\x21-\x7e]{1,255}", each) for each in tenants)
    )


def read_settings() -> Settings:
    """The settings of this process. Raises SettingsError naming the first variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "RUNENGINE_" + str(first["loc"][0]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{variable} {message}") from None
