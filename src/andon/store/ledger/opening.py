"""Bringing a ledger to the newest schema: made whole when new, migrated with Alembic when old, refused when newer than this code."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from andon.core.errors import InvalidSettings
from andon.store.schema import metadata

HEAD = "0002"
"""The newest revision in ``migrations/versions``; a test holds the two together."""
MIGRATIONS = "andon.store.ledger:migrations"


def prepare(connection: Connection, url: str, *, scripts: str = MIGRATIONS, head: str = HEAD) -> None:
    """Make or migrate the tables, inside the caller's transaction (both databases have transactional DDL)."""
    found = revision(connection)
    if found == head:
        return
    if found is not None:
        _migrate(connection, found, url, scripts)
        return
    foreign = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if foreign:
        raise InvalidSettings(
            f"this database has tables of another program with names of ours: {', '.join(foreign[:5])}",
            field="ledger",
            url=url,
            next_step="give Andon a database of its own",
        )
    metadata.create_all(connection)
    connection.execute(text("insert into experiments (id, name, created_us, changed_us) values (0, 'Default', 0, 0)"))
    connection.execute(text("create table alembic_version (version_num varchar(32) not null primary key)"))
    connection.execute(text("insert into alembic_version values (:head)"), {"head": head})


def revision(connection: Connection) -> str | None:
    """The revision of the ledger's schema, or None when it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("select version_num from alembic_version")).scalar()


def _migrate(connection: Connection, found: str, url: str, scripts: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", scripts)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        ScriptDirectory.from_config(config).get_revision(found)
    except CommandError:
        raise InvalidSettings(
            "this ledger was made by a newer Andon, or by another program",
            field="ledger",
            url=url,
            revision=found,
            next_step="upgrade andon, then try again; or give Andon a database of its own",
        ) from None
    command.upgrade(config, "head")
