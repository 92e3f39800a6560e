"""What the tables of schema.py and graph_tables.py have in common."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKeyConstraint, MetaData, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP

metadata = MetaData()

TIME = TIMESTAMP(timezone=True)


def tenant() -> Column[str]:
    """The first column of a table whose rows are of tenants."""
    return Column("tenant_id", Text, nullable=False)


def now(name: str) -> Column[object]:
    """A time that is that of the insert, unless another is given."""
    return Column(name, TIME, nullable=False, server_default=text("public.now_ms()"))


def of_run() -> ForeignKeyConstraint:
    """tenant_id and run_id are those of a run."""
    return ForeignKeyConstraint(["tenant_id", "run_id"], ["runs.tenant_id", "runs.id"])
