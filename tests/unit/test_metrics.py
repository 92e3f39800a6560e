"""The metrics that alerts, the dashboard and the documentation name are those that processes have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

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

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


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
    told = re.findall(r"^### (Runengine\w+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert told == [rule["alert"] for rule in group["rules"]]
    runbooks = [f"docs/operations.md#{alert.lower()}" for alert in told]
    assert runbooks == [rule["annotations"]["runbook"] for rule in group["rules"]]


def test_the_labels_of_metrics_name_no_tenant_and_nothing_without_end() -> None:
    labels = {label for each in families() for sample in each.samples for label in sample.labels}
    known = {"method", "code", "kind", "status", "workflow", "state", "le"}
    assert labels <= known


def promtool(*arguments: str | Path) -> None:
    checked = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    promtool("check", "rules", ALERTS)


@needs_promtool
def test_the_first_fault_of_a_process_fires_its_alert(tmp_path: Path) -> None:
    """The series of its labels is not there before, and begins with 1."""
    summaries = {
        "RunengineWorkersLost": "A run of huge has failed because five workers were lost with it",
        "RunengineCallsFail": "GetRun fails by a fault of the server",
    }
    lost = {"instance": "w", "workflow": "huge", "status": "failed", "code": "WORKER_LOST"}

    def fired(minutes: int, alert: str, **labels: str) -> dict[str, object]:
        runbook = f"docs/operations.md#{alert.lower()}"
        told = {
            "exp_labels": {"severity": "critical", **labels},
            "exp_annotations": {"summary": summaries[alert], "runbook": runbook},
        }
        return {"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": [told] if labels else []}

    labels = ",".join(f'{name}="{value}"' for name, value in lost.items())
    series = {
        f"runengine_runs_ended_total{{{labels}}}": "_x8 1x300",
        'runengine_calls_total{instance="s",method="GetRun",code="INTERNAL"}': "_x8 1x300",
        'runengine_calls_total{instance="s",method="GetRun",code="OK"}': "0+1x300",
    }
    trial = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            fired(3, "RunengineWorkersLost", **lost),
            fired(5, "RunengineCallsFail", method="GetRun"),
            fired(10, "RunengineCallsFail"),
            fired(65, "RunengineWorkersLost"),
        ],
    }
    written = tmp_path / "trial.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [trial]}))
    promtool("test", "rules", written)
