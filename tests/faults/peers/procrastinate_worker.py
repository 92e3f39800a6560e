"""procrastinate's part of the zombie scenario: `setup`, `defer GATES` or `work`, after the database's URL."""

from __future__ import annotations

import asyncio
import logging
import sys

from procrastinate import App, JobContext, PsycopgConnector  # type: ignore[import-not-found]

from tests.support.gates import pass_gate

# A twentieth of its defaults, 10 and 30 s; its documentation looks for stalled jobs every ten minutes.
HEARTBEAT_SECONDS = 0.5
STALLED_SECONDS = 1.5
EVERY_SECOND = "* * * * * *"


def create_app(url: str) -> App:
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="held")  # type: ignore[untyped-decorator]
    async def held(gates: str) -> str:
        if await pass_gate(gates, "held") == "fail":
            raise RuntimeError("The gate said so.")
        return "done"

    # The recovery that its documentation recommends, under "Retry stalled jobs".
    @app.periodic(cron=EVERY_SECOND)  # type: ignore[untyped-decorator]
    @app.task(queueing_lock="retry_stalled_jobs", pass_context=True)  # type: ignore[untyped-decorator]
    async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
            await app.job_manager.retry_job(job)

    return app


async def main(url: str, command: str, *arguments: str) -> None:
    app = create_app(url)
    async with app.open_async():
        match command:
            case "setup":
                await app.schema_manager.apply_schema_async()
            case "defer":
                await app.configure_task("held").defer_async(gates=arguments[0])
            case "work":
                await app.run_worker_async(
                    update_heartbeat_interval=HEARTBEAT_SECONDS, stalled_worker_timeout=STALLED_SECONDS
                )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
