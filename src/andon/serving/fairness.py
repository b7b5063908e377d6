"""The order in which waiting requests run: first come first served while one client asks, shared out between clients when several do.

Deficit round robin (Shreedhar and Varghese 1996, section 3): each client with waiting work is visited in turn, gets ``QUANTUM_ROWS`` more
to spend, and runs requests while its rows are within what it has. Costs O(1) a request, and one deque while there is one client. When the
queue is full, who has most waiting gives up its newest request (McKenney 1990, "buffer stealing"), so that one client that floods fills
its own share only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from andon.serving.batching import Work

QUANTUM_ROWS = 16


class _Lane:
    __slots__ = ("credit", "rows", "size_bytes", "visited", "work")

    def __init__(self) -> None:
        self.work: deque[Work] = deque()
        self.rows = 0
        self.size_bytes = 0
        self.credit = 0
        self.visited = False  # whether it has had what this turn gives it


class FairQueue:
    """Waiting work. ``rows`` and ``size_bytes`` are sums over it."""

    __slots__ = ("_lanes", "_only", "_turns", "rows", "size_bytes")

    def __init__(self) -> None:
        self.rows = 0
        self.size_bytes = 0
        self._only: deque[Work] = deque()  # while all of it is one client's
        self._lanes: dict[str, _Lane] = {}  # client -> its work, else
        self._turns: deque[str] = deque()  # whose turn it is, then who is next

    def __bool__(self) -> bool:
        return bool(self._only or self._lanes)

    def __iter__(self) -> Iterator[Work]:
        yield from self._only
        for lane in self._lanes.values():
            yield from lane.work

    def append(self, work: Work) -> None:
        """Queue behind what its client has waiting."""
        self.rows += work.n
        self.size_bytes += work.size_bytes
        only = self._only
        if not self._lanes and (not only or only[0].client == work.client):
            only.append(work)
            return
        while only:  # a second client: from here on they take turns
            self._join(only.popleft())
        self._join(work)

    def _join(self, work: Work) -> None:
        lane = self._lanes.get(work.client)
        if lane is None:
            lane = self._lanes[work.client] = _Lane()
            self._turns.append(work.client)
        lane.work.append(work)
        lane.rows += work.n
        lane.size_bytes += work.size_bytes

    def head(self) -> Work:
        """What ``pop`` gives next. There must be some."""
        if self._only:
            return self._only[0]
        turns = self._turns
        while True:
            lane = self._lanes[turns[0]]
            work = lane.work[0]
            if work.n <= lane.credit or len(turns) == 1:
                return work
            if not lane.visited:
                lane.visited = True
                lane.credit += max(QUANTUM_ROWS, work.n // 64)  # a huge request costs 64 turns at most
            else:
                lane.visited = False
                turns.rotate(-1)

    def pop(self) -> Work:
        """Take the next one. There must be some."""
        if self._only:
            work = self._only.popleft()
        else:
            work = self.head()
            lane = self._lanes[work.client]
            lane.work.popleft()
            lane.credit = max(0, lane.credit - work.n)
            self._left(work.client, lane, work)
        self.rows -= work.n
        self.size_bytes -= work.size_bytes
        return work

    def _left(self, client: str, lane: _Lane, work: Work) -> None:
        lane.rows -= work.n
        lane.size_bytes -= work.size_bytes
        if not lane.work:  # an idle client saves nothing up
            del self._lanes[client]
            self._turns.remove(client)

    def rows_before(self, client: str, n: int) -> int:
        """About how many rows run before ``n`` more of this client's would: all of them, or as many as each gets in its turn."""
        if not self._lanes:
            if not self._only or self._only[0].client == client:
                return self.rows
            return min(self.rows, n)  # a second client is next in turn
        own = self._lanes.get(client)
        clients = len(self._lanes) + (own is None)
        return min(self.rows, (n + (own.rows if own is not None else 0)) * clients)

    def purge(self) -> None:
        """Drop what nobody waits for any more."""
        if not any(work.future.done() for work in self):
            return
        alive = [work for work in self if not work.future.done()]
        self.__init__()  # type: ignore[misc]  # as new: the order between clients starts over
        for work in alive:
            self.append(work)

    def steal(self, client: str, n: int) -> Work | None:
        """The newest request of the client that has most waiting, if that is more than ``client`` would have with ``n`` more."""
        if not self._lanes:
            if not self._only or self._only[0].client == client or self.rows <= n:
                return None
            work = self._only.pop()
        else:
            own = self._lanes.get(client)
            longest = max(self._lanes, key=lambda name: self._lanes[name].rows)
            lane = self._lanes[longest]
            if longest == client or lane.rows <= n + (own.rows if own is not None else 0):
                return None
            work = lane.work.pop()
            self._left(longest, lane, work)
        self.rows -= work.n
        self.size_bytes -= work.size_bytes
        return work
