"""The metrics that alerts, the dashboard and the documentation name are those that processes have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from runengine_server import metrics
from runengine_server.database.database import Database
from runengine_server.metrics import DatabaseMetrics

from tests.support.stack import ROOT

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "runengine.json"
OPERATIONS = ROOT / "docs" / "operations.md"


def families() -> Iterator[Metric]:
    yield from DatabaseMetrics(Database("postgresql://app@nowhere/runengine", 1)).collect()
    yield from (each for each in REGISTRY.collect() if each.name.startswith("runengine_"))


def named() -> set[str]:
    """As Prometheus names them."""
    return {f"{each.name}_total" if each.type == "counter" else each.name for each in families()}


def mentioned(text: str) -> set[str]:
    found = set(re.findall(r"\brunengine_[a-z_]+", text))
    return {re.sub(r"_bucket$", "", each) for each in found}


def test_the_documentation_has_every_metric() -> None:
    assert metrics.CALLS
    table = OPERATIONS.read_text().partition("## Metrics")[2].partition("## ")[0]
    assert mentioned(table) == named()


def test_the_dashboard_shows_every_metric() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert mentioned(" ".join(expressions)) == named()


def test_the_alerts_name_metrics_that_are_there() -> None:
    found = mentioned(ALERTS.read_text())
    assert found
    assert found <= named()


def test_the_alerts_are_all_explained() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    told = re.findall(r"^\| `(Runengine\w+)`", OPERATIONS.read_text(), re.MULTILINE)
    assert told == [rule["alert"] for rule in group["rules"]]


def test_the_labels_of_metrics_name_no_tenant_and_nothing_without_end() -> None:
    labels = {label for each in families() for sample in each.samples for label in sample.labels}
    known = {"method", "code", "kind", "status", "workflow", "state", "le"}
    assert labels <= known


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_takes_the_alerts() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
