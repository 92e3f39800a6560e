"""What the tables of schema.py and graph_tables.py have in common."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ForeignKeyConstraint, MetaData, Text, text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType

metadata = MetaData()

TIME = TIMESTAMP(timezone=True)


class _TransactionId(UserDefinedType[int]):
    """The id of a transaction, which PostgreSQL never uses twice."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Its name in PostgreSQL."""
        return "xid8"


ischema_names["xid8"] = _TransactionId  # for alembic, which compares


def tenant() -> Column[str]:
    """The first column of a table whose rows are of tenants."""
    return Column("tenant_id", Text, nullable=False)


def now(name: str) -> Column[object]:
    """A time that is that of the insert, unless another is given."""
    return Column(name, TIME, nullable=False, server_default=text("public.now_ms()"))


def transaction() -> Column[int]:
    """The transaction that inserts the row: whether a snapshot has the row can be said without reading it.
    Null in rows of before there was the column.
    """
    return Column("transaction", _TransactionId(), server_default=text("pg_current_xact_id()"))


def of_run(ondelete: str | None = None) -> ForeignKeyConstraint:
    """tenant_id and run_id are those of a run."""
    columns, referred = ["tenant_id", "run_id"], ["runs.tenant_id", "runs.id"]
    return ForeignKeyConstraint(columns, referred, ondelete=ondelete)
