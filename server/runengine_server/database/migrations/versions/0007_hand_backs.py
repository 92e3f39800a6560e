"""Runs know how often in a row they were handed back."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """What claim_expired tells a hand-back from a loss by, and what hand-backs are counted from."""
    op.execute("""
        ALTER TABLE public.runs
            ADD COLUMN handed_back boolean NOT NULL DEFAULT false,
            ADD COLUMN hand_backs int NOT NULL DEFAULT 0,
            ADD COLUMN steps_at_hand_back int NOT NULL DEFAULT 0
    """)
