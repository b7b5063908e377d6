"""DuckDB, locked down: it runs one SELECT over the sources it is handed, and reaches no other file, network or setting.

A statement is checked twice: its parse tree may hold only query nodes and harmless table functions (DuckDB 2 lets a CTE write files with
COPY and still calls that a SELECT), and the database has no access beyond the parts' folder and cannot be reconfigured.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import InvalidInput, Unavailable
from andon.store.tables.columns import check_table, empty_table, plain_result

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
_REFUSED_FUNCTIONS = frozenset({"current_setting", "getenv", "getvariable", "write_log", "nextval", "currval", "query", "query_table"})
MAX_SQL_CHARS = 100_000

_abandoned: list[Any] = []  # connections inherited through a fork: closing them would wait for threads the child does not have


class Source(msgspec.Struct, frozen=True):
    """Where a table's rows are: Parquet files, and rows in memory."""

    files: tuple[Path, ...] = ()
    rows: tuple[Any, ...] = ()
    """``pyarrow.Table`` each."""


class Sql:
    """One in-memory DuckDB for a process, made at the first query. Any number of threads may query."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._pid = os.getpid()
        self._tables = lru_cache(maxsize=512)(self._parse)

    def tables(self, sql: str) -> frozenset[str]:
        """The tables that a statement names. Raises ``InvalidInput`` unless it is one SELECT that only reads."""
        if not isinstance(sql, str) or len(sql) > MAX_SQL_CHARS:
            raise InvalidInput(f"a query is text of at most {MAX_SQL_CHARS} characters", field="sql")
        return self._tables(sql)

    def run(
        self,
        sql: str,
        params: Sequence[Any],
        sources: Mapping[str, Source],
        *,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> pa.Table:
        """Run a checked statement over ``sources``, rows limited to ``start_us <= event_time < end_us``.

        Raises ``InvalidInput`` with DuckDB's message when the statement is at fault, ``Unavailable`` when the machine is.
        """
        import duckdb

        cursor = self._cursor()
        try:
            for position, (table, source) in enumerate(sources.items()):
                _define(cursor, position, table, source, _window(start_us, end_us))
            relation = cursor.sql(sql, params=list(params))
            if relation is None:
                raise InvalidInput("a query is one SELECT", field="sql")
            return plain_result(relation.to_arrow_table())
        except duckdb.Error as error:
            raise self._translate(error) from None
        except (ValueError, RuntimeError) as error:  # a parameter that DuckDB cannot bind
            raise InvalidInput(f"the query cannot be run: {error}", field="params") from None
        finally:
            cursor.close()

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._database is not None and self._pid == os.getpid():
                self._database.close()
            self._database = None

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._database is None or self._pid != os.getpid():
                if self._database is not None:
                    _abandoned.append(self._database)
                self._database = _open(self._root)
                self._pid = os.getpid()
            return self._database.cursor()

    def _parse(self, sql: str) -> frozenset[str]:
        import duckdb

        cursor = self._cursor()
        try:
            relation = cursor.sql("select json_serialize_sql(?) as tree", params=[sql])
            assert relation is not None
            text = relation.to_arrow_table().column("tree")[0].as_py()
        except duckdb.Error as error:
            raise self._translate(error) from None
        finally:
            cursor.close()
        tree = msgspec.json.decode(text)
        if tree.get("error"):
            raise InvalidInput(f"not a query: {tree.get('error_message', 'it cannot be parsed')}", field="sql")
        if len(tree["statements"]) != 1:
            raise InvalidInput("a query is one statement", field="sql", got=len(tree["statements"]))
        named: set[str] = set()
        common: set[str] = set()
        _walk(tree["statements"], named, common)
        return frozenset(name if name.lower() in common else check_table(name) for name in named)

    def _translate(self, error: duckdb.Error) -> Exception:
        import duckdb

        if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):
            with self._lock:  # the database has given up; the next query starts another
                self._database = None
            return Unavailable(f"DuckDB failed: {error}")
        if isinstance(error, duckdb.OutOfMemoryException):
            return Unavailable(f"this query needs more memory than there is: {error}")
        if isinstance(error, (duckdb.IOException, duckdb.InterruptException)):
            return Unavailable(f"the query did not finish: {error}")
        return InvalidInput(f"the query cannot be run: {error}", field="sql")


def _open(root: Path | None) -> duckdb.DuckDBPyConnection:
    import duckdb

    database = duckdb.connect(":memory:")
    settings = [
        "set global TimeZone = 'UTC'",
        "set global autoinstall_known_extensions = false",
        "set global autoload_known_extensions = false",
    ]
    if root is not None:
        folder = str(root.absolute())
        allowed = ", ".join(
            _text(f"{path}/") for path in sorted({folder, _literal_path(folder)})
        )  # it checks patterns before it expands them
        settings += [f"set allowed_directories = [{allowed}]", f"set temp_directory = {_text(folder + '/.spill')}"]
    settings += ["set enable_external_access = false", "set lock_configuration = true"]
    for setting in settings:
        database.execute(setting)
    return database


def _define(cursor: duckdb.DuckDBPyConnection, position: int, table: str, source: Source, window: str) -> None:
    """Make the table's name mean its source, for this cursor only."""
    members = []
    if source.files:
        files = ", ".join(_text(_literal_path(str(path))) for path in source.files)
        members.append(f"select * from read_parquet([{files}], union_by_name = true, hive_partitioning = false)")
    for number, rows in enumerate(source.rows or (() if source.files else (empty_table(),))):
        handle = f"ROWS {position}.{number}"  # no table of ours can have this name
        cursor.register(handle, rows)
        members.append(f"select * from {_identifier(handle)}")
    union = " union all by name ".join(members)
    cursor.execute(f"create temp view {_identifier(table)} as select * from ({union}){window}")


def _window(start_us: int | None, end_us: int | None) -> str:
    bounds = []
    if start_us is not None:
        bounds.append(f"event_time >= make_timestamptz({int(start_us)})")
    if end_us is not None:
        bounds.append(f"event_time < make_timestamptz({int(end_us)})")
    return " where " + " and ".join(bounds) if bounds else ""


def _walk(node: Any, named: set[str], common: set[str]) -> None:
    """Collect the tables and common table expressions of a parse tree; refuse whatever does more than read them."""
    if isinstance(node, list):
        for item in node:
            _walk(item, named, common)
        return
    if not isinstance(node, dict):
        return
    kind = node.get("type")
    if isinstance(kind, str):
        if kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise InvalidInput("a query only reads", field="sql", got=kind.removesuffix("_NODE").replace("_", " ").lower())
        if kind == "TABLE_FUNCTION":
            name = str((node.get("function") or {}).get("function_name", "")).lower()
            if name not in _TABLE_FUNCTIONS:
                raise InvalidInput(f"a query cannot call the table function {name[:80]!r}", field="sql")
        if kind == "BASE_TABLE":
            if node.get("schema_name") or node.get("catalog_name"):
                raise InvalidInput('tables have no schema or catalog: quote the whole name, as in "predictions/bikes"', field="sql")
            named.add(str(node.get("table_name")))
    name = str(node.get("function_name", "")).lower()
    if name in _REFUSED_FUNCTIONS:
        raise InvalidInput(f"a query cannot call {name}()", field="sql")
    for entry in (node.get("cte_map") or {}).get("map") or ():
        common.add(str(entry["key"]).lower())
    for value in node.values():
        _walk(value, named, common)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literal_path(path: str) -> str:
    """A path that means itself although DuckDB reads ``*``, ``?`` and ``[`` as patterns."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)
