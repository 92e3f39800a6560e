"""Runs the migrations of versions/ on the connection that migrate.py opens."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
