"""Alembic migrations of the ledger. One file a release; ``andon.store.ledger.opening.HEAD`` names the newest."""
