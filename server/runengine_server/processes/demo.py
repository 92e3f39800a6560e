"""Takes a campaign from its brief to its bundle: everything started on free ports, nothing left running.

`make demo` runs it. What it does goes over REST, as a front end would.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console

from runengine_server.auth import development

BRIEF = {
    "product": {
        "name": "Solar Kettle",
        "description": "Boils a litre of water in eight minutes with nothing but sunlight.",
    },
    "audience": "campers and garden lovers",
    "channels": ["email", "instagram", "linkedin"],
    "tone": "friendly",
    "offer": "20 % off until Sunday",
    "locale": "en",
    "brand": {"primary": "#0a7d5a", "secondary": "#fc0"},
    "paceSeconds": 0.4,
}
_SIGNS = {"completed": "[green]✓[/]", "failed": "[red]✗[/]", "running": "[yellow]…[/]", "skipped": "–"}
_SECONDS = 60

console = Console(highlight=False)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


class Rest:
    """The documented paths, with a token."""

    def __init__(self, address: str, token: str) -> None:
        self._base = f"http://{address}"
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of the response."""
        console.print(f"[dim]{method} {path}[/]")
        return json.loads(self.read(method, path, body))

    def read(self, method: str, path: str, body: Any = None) -> bytes:
        """The bytes of the response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            body_read: bytes = response.read()
            return body_read


def _follow(rest: Rest, run_id: str) -> dict[str, Any]:
    """Prints each step as it ends, a ◆ for each artifact it saved, until the run has ended."""
    console.print(f"[dim]GET /runs/{run_id}/steps, until the run has ended[/]")
    shown: set[tuple[str, int]] = set()
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        run: dict[str, Any] = json.loads(rest.read("GET", f"/runs/{run_id}"))
        for step in json.loads(rest.read("GET", f"/runs/{run_id}/steps"))["steps"]:
            key = (step["id"], step["attempt"])
            if step["status"] in ("completed", "failed", "skipped") and key not in shown:
                shown.add(key)
                console.print(
                    f"  {_SIGNS[step['status']]} {step['stepId']:<18} {step['durationMs'] or 0:>5} ms"
                    f"  [dim]{'◆' * len(step['outputArtifactIds'] or [])}[/]"
                )
        if run["completedAt"] is not None:
            return run
        time.sleep(0.1)
    raise TimeoutError(f"the run has not ended after {_SECONDS} s")


def _list(page: dict[str, Any]) -> None:
    for run in page["runs"]:
        console.print(f"  {run['id']}  {run['status']}  {run['durationMs']} ms")
    console.print(f"  {len(page['runs'])} of {page['total']}")


def _story(rest: Rest) -> bool:
    console.rule("A campaign", align="left")
    campaign = rest.call("POST", "/campaigns", {})
    console.print(f"  {campaign['id']} is {campaign['status']}")

    console.rule("A run of campaign-bundle", align="left")
    body = {
        "workflowName": "campaign-bundle",
        "triggerPayload": BRIEF,
        "context": {"campaignId": campaign["id"]},
    }
    run = rest.call("POST", "/runs", body)
    console.print(f"  {run['id']} is {run['status']}")
    run = _follow(rest, run["id"])
    console.print(f"  {run['id']} is {run['status']} after {run['durationMs']} ms")

    console.rule("The campaign now", align="left")
    campaign = rest.call("GET", f"/campaigns/{campaign['id']}")
    console.print(f"  {campaign['id']} is [bold]{campaign['status']}[/]")
    console.print(f"  bundle {campaign['bundleUrl']}", soft_wrap=True)
    size = len(rest.read("GET", "/artifacts/" + campaign["bundleUrl"].rpartition("/")[2]))
    console.print(f"  which is a zip of {size:,} bytes")

    console.rule("Its runs", align="left")
    _list(rest.call("GET", f"/campaigns/{campaign['id']}/runs"))
    return bool(run["status"] == "completed" and campaign["status"] == "live")


def main() -> int:
    """0 when the campaign has gone live."""
    with tempfile.TemporaryDirectory(prefix="runengine-demo-") as directory:
        state_dir = Path(directory)
        addresses = {"RUNENGINE_GRPC_ADDRESS": _free_address(), "RUNENGINE_REST_ADDRESS": _free_address()}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RUNENGINE_")}
        console.print(f"[dim]runengine-server up, REST on {addresses['RUNENGINE_REST_ADDRESS']}[/]")
        with (state_dir / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "runengine_server", "up"],
                env={**inherited, **addresses, "RUNENGINE_STATE_DIR": directory},
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            assert server.stdout is not None
            if b"is up" not in server.stdout.readline():
                console.print((state_dir / "log").read_text(), style="red")
                return 1
            token = development.sign(state_dir, "org_demo", "user_demo", ttl_seconds=600)
            return 0 if _story(Rest(addresses["RUNENGINE_REST_ADDRESS"], token)) else 1
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
