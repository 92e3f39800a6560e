"""The policies by which PostgreSQL shows each tenant its own rows alone."""

from __future__ import annotations

from collections.abc import Container

from sqlalchemy import DDL, MetaData, Table, event

# (SELECT …) reads the setting once a statement; without it, there is a call for each row.
_TENANT_POLICY = "CREATE POLICY tenant ON %(fullname)s USING (tenant_id = (SELECT public.current_tenant()))"
_DISPATCH_POLICY = "CREATE POLICY dispatch ON %(fullname)s USING ((SELECT public.is_dispatch()))"

# For backups. It is for a role that every cluster has, whose only member is the owner of the database, so
# that a dump can be restored under another owner. For all other roles the planner leaves the policy out;
# otherwise it would cost 3 µs a statement.
_OWNER_POLICY = """CREATE POLICY owner ON %(fullname)s TO pg_database_owner
    USING ((SELECT current_setting('runengine.all_tenants', true) = 'on'))"""


def secure(metadata: MetaData, of_dispatch: Container[Table]) -> None:
    """Gives each table with a tenant its policies; those `of_dispatch` also the one for workers."""
    for table in metadata.tables.values():
        if "tenant_id" not in table.c:
            continue
        # FORCE, because without it the owner of a table sees all rows.
        for statement in (
            "ALTER TABLE %(fullname)s ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE %(fullname)s FORCE ROW LEVEL SECURITY",
            _TENANT_POLICY,
            _OWNER_POLICY,
            *([_DISPATCH_POLICY] if table in of_dispatch else []),
        ):
            event.listen(table, "after_create", DDL(statement))  # type: ignore[no-untyped-call]
