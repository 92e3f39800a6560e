"""Has the database room left on its disk? A write to a page that is there says nothing of it."""

from __future__ import annotations

from runengine_server.repositories.functions import Function

# PostgreSQL keeps what a function returns in a temporary file where it does not fit into work_mem: 140 kB
# beside the tables, removed at once; no row, no WAL, no lock. Without room it fails with 53100, as a table
# that has to grow does.
WRITE_FILE = Function(
    "write_temporary_file",
    "",
    "rows bigint",
    """
    PERFORM set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true);
    RETURN QUERY SELECT count(*) FROM generate_series(1, 10000);""",
    steps=True,
    dispatch=True,
)

FUNCTIONS = (WRITE_FILE,)
