"""Both ways to the newest schema lead to the same tables: made whole, or migrated step by step."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from andon.core.errors import InvalidSettings
from andon.core.settings import Settings
from andon.store.ledger import open_ledger, opening
from andon.store.schema import metadata


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    engine = create_engine(url, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _plain(raw: Any, _: object) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def _scripts(location: str = opening.MIGRATIONS) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def _shape(connection: Connection) -> list[Any]:
    """Everything about the tables that the engine will tell, in an order of its own."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("select type, name, tbl_name, sql from sqlite_master where name not like 'alembic%' order by 1, 2"))
        return [(row.type, row.name, row.tbl_name, " ".join((row.sql or "").split())) for row in rows if "alembic" not in row.tbl_name]
    columns = "select table_name, column_name, data_type, is_nullable, column_default, is_identity from information_schema.columns"
    where = " where table_schema = 'public' and table_name <> 'alembic_version' order by table_name, ordinal_position"
    indexes = (
        "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' and tablename <> 'alembic_version' order by 1, 2"
    )
    return [*map(tuple, connection.execute(text(columns + where))), *map(tuple, connection.execute(text(indexes)))]


def test_head_is_the_newest_revision() -> None:
    assert _scripts().get_heads() == [opening.HEAD]


def test_migrations_and_schema_make_the_same_tables(url: str) -> None:
    engine = _engine(url)
    with engine.begin() as connection:
        opening.prepare(connection, url)
        made = _shape(connection)
        assert compare_metadata(_context(connection), metadata) == []
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text("drop table alembic_version"))
    from alembic import command

    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", opening.MIGRATIONS)
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with engine.begin() as connection:
        assert compare_metadata(_context(connection), metadata) == []
        migrated = _shape(connection)
        assert opening.revision(connection) == opening.HEAD
        opening.prepare(connection, url)  # nothing to do
        assert _shape(connection) == migrated
    assert migrated == made
    assert {row[1] if url.startswith("sqlite") else row[0] for row in made} >= set(metadata.tables)
    engine.dispose()


def _context(connection: Connection) -> MigrationContext:
    ours = set(metadata.tables)

    def only_ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        return kind != "table" or name in ours

    return MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True, "include_object": only_ours})


FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0001", None, None, None
def upgrade():
    op.create_table("entries", sa.Column("kind", sa.Text(), primary_key=True))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None
def upgrade():
    op.add_column("entries", sa.Column("colour", sa.Text()))
    op.execute("update entries set colour = 'red'")
    if FAILS:
        raise RuntimeError("half-way")
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Path]:
    """A folder of two fake revisions."""
    folder = tmp_path / "fakes"
    (folder / "versions").mkdir(parents=True)
    real = Path(importlib.import_module(opening.MIGRATIONS.replace(":", ".")).__file__ or "")
    (folder / "env.py").write_text(real.with_name("env.py").read_text())
    (folder / "versions" / "0001_first.py").write_text(FIRST)
    (folder / "versions" / "0002_second.py").write_text(SECOND.replace("FAILS", "False"))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("000"):
            del sys.modules[name]


def _older(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("create table entries (kind text primary key)"))
        connection.execute(text("insert into entries values ('kept')"))
        connection.execute(text("create table alembic_version (version_num varchar(32) not null primary key)"))
        connection.execute(text("insert into alembic_version values ('0001')"))


def test_an_older_ledger_is_brought_up_to_date(url: str, scripts: Path) -> None:
    engine = _engine(url)
    _older(engine)
    for _ in range(2):
        with engine.begin() as connection:
            opening.prepare(connection, url, scripts=str(scripts), head="0002")
    with engine.begin() as connection:
        assert connection.execute(text("select kind, colour from entries")).all() == [("kept", "red")]
        assert opening.revision(connection) == "0002"
    engine.dispose()


def test_a_migration_that_fails_leaves_the_older_ledger(url: str, scripts: Path) -> None:
    engine = _engine(url)
    _older(engine)
    (scripts / "versions" / "0002_second.py").write_text(SECOND.replace("FAILS", "True"))
    with pytest.raises(RuntimeError, match="half-way"), engine.begin() as connection:
        opening.prepare(connection, url, scripts=str(scripts), head="0002")
    with engine.begin() as connection:
        assert [column["name"] for column in inspect(connection).get_columns("entries")] == ["kind"]
        assert opening.revision(connection) == "0001"
    engine.dispose()


def test_a_database_of_another_program_is_left_alone(url: str, tmp_path: Path) -> None:
    engine = _engine(url)
    with engine.begin() as connection:
        connection.execute(text("create table runs (run_uuid varchar(32))"))  # as MLflow has
        connection.execute(text("create table experiments (id int)"))
    settings = Settings(home=str(tmp_path), ledger="sqlite:///ledger.db" if url.startswith("sqlite") else url)
    with pytest.raises(InvalidSettings, match="another program with names of ours: experiments, runs") as caught:
        open_ledger(settings)
    assert caught.value.next_step == "give Andon a database of its own"
    with engine.begin() as connection:
        connection.execute(text("drop table runs"))
        connection.execute(text("create table alembic_version (version_num varchar(32) not null primary key)"))
        connection.execute(text("insert into alembic_version values ('451aebb31d03')"))
    with pytest.raises(InvalidSettings, match="another program"):
        open_ledger(settings)
    with engine.begin() as connection:
        assert sorted(inspect(connection).get_table_names()) == ["alembic_version", "experiments"]
    engine.dispose()
