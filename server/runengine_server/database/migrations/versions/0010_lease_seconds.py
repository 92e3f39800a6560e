"""A lease says how long it is."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """What claim_expired tells by that the clock has gone back. Of leases of the version before it is null,
    and nothing is told of them.
    """
    op.execute("ALTER TABLE public.runs ADD COLUMN lease_seconds float")
