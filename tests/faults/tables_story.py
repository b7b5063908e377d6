"""What the processes that ``test_tables_kill`` kills are doing. Run as a script it imports once, then forks a child for each line it reads.

A line is ``HOME FAULT`` (``-`` for none); the answer is the child's wait status.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import sqlalchemy  # noqa: F401

from andon.core import faults
from andon.core.clocks import HOUR_US, ManualClock
from andon.core.ids import Ids
from andon.core.settings import Settings
from andon.store.ledger import open_ledger
from andon.store.ports import Ledger
from andon.store.tables import compact
from andon.store.tables.files import FileTables

UTC = pa.timestamp("us", "UTC")
LIMIT_US = 1000


def opened(home: Path) -> tuple[Ledger, FileTables, ManualClock]:
    clock = ManualClock(1_000 * HOUR_US)
    ledger = open_ledger(Settings(home=str(home)))
    return ledger, FileTables(ledger, home / "tables", home / "inbox", clock, Ids()), clock


class Acks:
    """Notes that survive a kill: what was tried, and what was acknowledged."""

    def __init__(self, home: Path) -> None:
        self._fd = os.open(home / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, line: str) -> None:
        os.write(self._fd, (line + "\n").encode())


def append(tables: FileTables, acks: Acks, table: str, times: list[int], *, durable: bool) -> None:
    """Add one batch whose rows are told by ``who``, a number of their own."""
    who = [int.from_bytes(os.urandom(6), "big") for _ in times]
    words = " ".join(map(str, who))
    acks.note(f"try {table} {words}")
    instants = pa.array(times, UTC)
    columns = {"event_time": instants, "arrival_time": instants, "who": who, f"c{times[0] % 3}": [1.5] * len(who)}
    tables.append(table, pa.record_batch(columns), durable=durable)
    acks.note(f"ack {table} {words}")


def story(home: Path) -> None:
    """Every verb of the tables."""
    compact.plan = partial(compact.plan, fan_in=2)  # two parts are enough for a merge
    ledger, tables, clock = opened(home)
    acks = Acks(home)
    append(tables, acks, "t", [5, 3], durable=True)
    append(tables, acks, "u/v", [1], durable=False)
    tables.seal()
    append(tables, acks, "t", [4], durable=False)
    append(tables, acks, "old", [LIMIT_US - 1, LIMIT_US, 0], durable=True)
    tables.seal()
    tables.compact("t")
    acks.note("dropping")
    tables.drop_before("old", LIMIT_US)
    acks.note("dropped")
    clock.advance(3 * HOUR_US)
    tables.purge(HOUR_US)
    tables.gc(older_than_us=0)
    append(tables, acks, "t", [7], durable=True)
    tables.close()
    ledger.close()


def _serve() -> None:
    for line in sys.stdin:
        home, fault = line.split()
        child = os.fork()
        if child == 0:
            try:
                faults.arm(None if fault == "-" else fault)
                story(Path(home))
                os._exit(0)
            except BaseException:
                import traceback

                Path(home, "error").write_text(traceback.format_exc())
                os._exit(3)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    _serve()
