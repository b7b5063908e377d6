"""Group commit: one thread owns the one writing connection; one transaction takes everything that waits.

Callers queue a piece of work and get a future. The thread opens a transaction, runs every waiting piece under a savepoint of its own,
commits once, and only then resolves the futures. While a commit is on its way to the disk the next group gathers, so the cost of an
fsync is shared by whoever came in the meantime, and a lone writer never waits for company.

When something breaks the transaction itself before its commit (a full disk, a lost connection), nothing of the group has happened, and
each piece is run again in a transaction of its own: so each fails for its own reason only. When the connection is lost *during* the
commit, nobody can know what happened, and each caller is told just that (``OutcomeUnknown``).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from sqlalchemy.engine import CursorResult

from andon.core.errors import AndonError, OutcomeUnknown, Unavailable
from andon.core.faults import point
from andon.core.forks import follow
from andon.store.ledger.sides import Side, abandon

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")
MAX_GROUP = 1024
CLOSE_TIMEOUT_S = 60.0
FORK_TIMEOUT_S = 1.0
FORK_PAUSE_S = 0.0005


@dataclass(slots=True, eq=False)
class _Piece:
    work: Callable[[Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class _Failure(NamedTuple):
    stage: Literal["start", "work", "commit"]
    error: BaseException
    lost: bool


class _BrokenError(Exception):
    """A piece took the whole transaction with it; ``__cause__`` says how, if the database did."""


class GroupCommit:
    """The writer of one ledger in one process. After a fork the child starts a writer of its own."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.commits = 0
        self._reset()
        follow(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._committing = threading.RLock()  # held while a group is on its way; a fork waits for it
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._fork_waits = False
        self._options: Any = None
        self._working = False
        self._closed = False

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """Queue ``work``; the future is done when its commit is durable. Once its group has begun it can no longer be cancelled."""
        if self.inside_work():
            raise RuntimeError("a piece of work may not submit(): use the connection it was given")
        piece = _Piece(work)
        with self._lock:
            if self._closed:
                raise Unavailable("this ledger is closed", next_step="open the store again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="andon-ledger-writer", daemon=True)
                self._thread.start()
            self._queue.put(piece)
        return piece.future

    def write(self, work: Callable[[Connection], T]) -> T:
        """``submit``, and wait."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a piece of work may not call write(): use the connection it was given")
        future = self.submit(work)
        try:
            return future.result()
        finally:
            del future  # an error's traceback holds this frame, and the future holds the error: no ring for the collector

    def inside_work(self) -> bool:
        """Whether the caller is inside a piece of work (where another transaction would see, or wait for, the wrong thing)."""
        return self._working and threading.current_thread() is self._thread

    def close(self) -> None:
        """Commit what is queued, then stop. Later submits are refused."""
        with self._lock:
            thread = self._thread
            if not self._closed and thread is not None:
                self._queue.put(None)
            self._closed = True
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT_S)

    def before_fork(self) -> bool:
        # SQLite and the drivers hold locks of their own while a group is on its way; a child would inherit them locked for ever.
        self._fork_waits = True  # a lock knows no order: without this the busy writer would take it again and again
        try:
            return self._committing.acquire(timeout=FORK_TIMEOUT_S)
        finally:
            self._fork_waits = False

    def after_fork_in_parent(self) -> None:
        self._committing.release()

    def after_fork_in_child(self) -> None:
        closed = self._closed
        abandon((self._connection, self._queue))
        self._reset()
        self._closed = closed

    def _run(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._next_group()
            while self._fork_waits:
                time.sleep(FORK_PAUSE_S)
            with self._committing:
                group = [piece for piece in group if piece.future.set_running_or_notify_cancel()]
                try:
                    self._settle(group)
                except BaseException as error:  # noqa: BLE001 - a defect here must reach those who wait, or they wait for ever
                    self._drop_connection()
                    self._fail([piece for piece in group if not piece.future.done()], error)
            del group  # keeps nobody's rows alive while the queue is empty
        with self._committing:
            self._drop_connection()

    def _next_group(self) -> tuple[list[_Piece], bool]:
        first = self._queue.get()
        if first is None:
            return [], False
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                piece = self._queue.get_nowait()
            except queue.Empty:
                break
            if piece is None:
                return group, False
            group.append(piece)
        return group, True

    def _settle(self, group: list[_Piece]) -> None:
        """Bring every piece of a group to an end: committed, or failed with the reason that is its own."""
        if not group:
            return
        failure = self._attempt(group)
        if failure is None:
            self._succeed(group)
            if self._connection is not None:
                self._side.tend()
        elif failure.stage == "commit" and not self._side.undone(failure.error):
            self._fail(group, failure.error, unknown=True)
        elif failure.stage == "start" or len(group) == 1:
            self._fail(group, failure.error)
        else:
            for position, piece in enumerate(group):
                failure = self._attempt([piece])
                if failure is None:
                    self._succeed([piece])
                elif failure.stage == "start":  # nobody after it will fare better, and each would wait for as long
                    self._fail(group[position:], failure.error)
                    return
                else:
                    self._fail([piece], failure.error, unknown=failure.stage == "commit" and not self._side.undone(failure.error))

    def _attempt(self, group: list[_Piece]) -> _Failure | None:
        """One transaction for ``group``; once more on a new connection when the old one was lost before the commit."""
        failure = self._transact(group)
        if failure is not None and failure.lost and failure.stage != "commit":
            failure = self._transact(group)
        return failure

    def _transact(self, group: list[_Piece]) -> _Failure | None:
        stage: Literal["start", "work", "commit"] = "start"
        side = self._side
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = side.connect()
                self._options = connection.get_execution_options()
            side.begin()
            stage = "work"
            if len(group) == 1:
                if not self._run_alone(group[0], connection):
                    side.rollback()
                    return None
            else:
                for piece in group:
                    self._run_under_savepoint(piece, connection)
            point("ledger.before_commit")
            stage = "commit"
            side.commit()
            point("ledger.after_commit")
            self.commits += 1
            if connection.get_execution_options() is not self._options:
                self._drop_connection()  # a piece set options, and they would be those of every later piece
        except BaseException as error:  # noqa: BLE001 - whatever broke the transaction must reach those who wait, or they wait for ever
            cause = error.__cause__ if isinstance(error, _BrokenError) and error.__cause__ is not None else error
            # A new connection is cheap; one whose state is in doubt is not.
            self._drop_connection()
            return _Failure(stage, cause, side.lost(cause))
        return None

    def _run_alone(self, piece: _Piece, connection: Connection) -> bool:
        """Run a piece without a savepoint (rolling back undoes exactly this piece); whether there is something to commit."""
        self._run_work(piece, connection)
        if piece.error is None:
            state = self._side.state()
            if state == "open":
                return True
            piece.error = _swallowed()
            if state == "gone":
                raise _BrokenError
        elif self._side.driver_error(piece.error) and self._side.lost(piece.error):
            raise _BrokenError from piece.error
        return False

    def _run_under_savepoint(self, piece: _Piece, connection: Connection) -> None:
        side = self._side
        side.savepoint("SAVEPOINT")
        self._run_work(piece, connection)
        state = side.state()
        if state == "gone":
            raise _BrokenError from piece.error
        if state == "failed" and piece.error is None:
            piece.error = _swallowed()
        if piece.error is not None:
            side.savepoint("ROLLBACK TO SAVEPOINT")
        side.savepoint("RELEASE SAVEPOINT")

    def _run_work(self, piece: _Piece, connection: Connection) -> None:
        piece.result = piece.error = None
        self._working = True
        try:
            piece.result = piece.work(connection)
            if isinstance(piece.result, CursorResult):
                piece.result.close()  # rows are to be read inside; what it counted stays readable
        except BaseException as error:  # noqa: BLE001 - it is the caller's, and is raised there
            piece.error = error
        finally:
            self._working = False
        if connection.in_nested_transaction():
            nested = connection.get_nested_transaction()
            while nested is not None:
                nested.rollback()
                nested = connection.get_nested_transaction()
            piece.error = piece.error or RuntimeError("a piece of work left a nested transaction open")
        seen = connection.get_transaction()
        if seen is not None and not seen.is_active:  # it tried to end the transaction, and SQLAlchemy has marked it for that
            raise _BrokenError from piece.error
        # An exception keeps its frames, and they keep half-read cursors, and those keep an old snapshot on this connection.
        self._side.tidy()

    def _succeed(self, group: list[_Piece]) -> None:
        for piece in group:
            if piece.error is not None:
                self._fail([piece], piece.error)
            else:
                with _surviving():
                    piece.future.set_result(piece.result)

    def _fail(self, group: list[_Piece], error: BaseException, *, unknown: bool = False) -> None:
        for piece in group:
            own = piece.error if piece.error is not None else error
            said: BaseException = own
            if unknown and piece.error is None:
                said = OutcomeUnknown(f"the commit broke off, and may or may not have happened: {self._translated(own).message}")
                said.__cause__ = own
            elif self._side.driver_error(own):
                said = self._translated(own)  # one each: an exception that several threads raise gathers all their tracebacks
                said.__cause__ = own
            elif own is not piece.error and not isinstance(own, AndonError):
                said = Unavailable(f"the ledger's writer failed: {own!r}")
                said.__cause__ = own
            with _surviving():
                piece.future.set_exception(said)

    def _translated(self, error: BaseException) -> AndonError:
        try:
            return self._side.translate(error)
        except Exception:  # noqa: BLE001 - a message that cannot be read is still a failure to report
            return Unavailable(f"the ledger failed: {error!r}")

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(Exception):  # it is of no more use: whatever closing it says changes nothing
            self._side.tidy()
        with contextlib.suppress(Exception):
            self._side.rollback()
        with contextlib.suppress(Exception):
            connection.invalidate()
        with contextlib.suppress(Exception):
            connection.close()


def _swallowed() -> RuntimeError:
    return RuntimeError("a piece of work went on after a database error that undid it: let the error out, or use begin_nested()")


@contextlib.contextmanager
def _surviving() -> Any:
    """A callback that somebody hung on a future must not end the writer."""
    try:
        yield
    except BaseException:  # noqa: BLE001 - Future logs ordinary errors of callbacks itself; SystemExit and the like end here
        return
