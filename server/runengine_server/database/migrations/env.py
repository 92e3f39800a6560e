"""Runs the migrations of versions/ on the connection that migrate.py opens."""

from alembic import context

from runengine_server.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
