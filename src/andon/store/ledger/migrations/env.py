"""Runs migrations on the connection that ``opening.prepare`` hands in."""

from alembic import context

from andon.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
