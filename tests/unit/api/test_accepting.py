"""Sharing one listening socket evenly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from andon.api.accepting import ABSENT, SLOTS, Acceptor, Board
from andon.api.serving_server import listen


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create()
    yield made
    made.close()


class Held(asyncio.Protocol):
    """Counts the connections of one acceptor."""

    def __init__(self, count: list[asyncio.BaseTransport]) -> None:
        self.count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.count.append(transport)


def test_the_least_is_of_those_who_are_there(board: Board) -> None:
    assert board.least() == 0
    board.put(3, 7)
    board.put(SLOTS - 1, 5)
    assert board.least() == 5
    board.put(SLOTS - 1, ABSENT)
    assert board.least() == 7


def _acceptor(listener: socket.socket, board: Board, slot: int, count: list[asyncio.BaseTransport]) -> Acceptor:
    return Acceptor(listener, lambda: Held(count), board, slot, lambda: len(count))


async def _connect(listener: socket.socket, n: int) -> list[asyncio.StreamWriter]:
    host, port = listener.getsockname()
    return [writer for _, writer in await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(n)))]


async def _until(true: object) -> None:
    assert callable(true)
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


async def _end(writers: list[asyncio.StreamWriter], *counts: list[asyncio.BaseTransport]) -> None:
    for writer in writers:
        writer.close()
    for count in counts:
        for transport in count:
            transport.close()
    await asyncio.sleep(0.01)


def test_two_that_share_a_socket_get_the_same_number(listener: socket.socket, board: Board) -> None:
    async def main() -> None:
        # Each on its own descriptor of the same socket, as in two processes.
        with listener.dup() as other:
            other.setblocking(False)
            counts: tuple[list[asyncio.BaseTransport], list[asyncio.BaseTransport]] = ([], [])
            pair = [_acceptor(one, board, slot, counts[slot]) for slot, one in enumerate((listener, other))]
            for acceptor in pair:
                acceptor.start()
            writers = await _connect(listener, 40)
            await _until(lambda: len(counts[0]) + len(counts[1]) == 40)
            assert abs(len(counts[0]) - len(counts[1])) <= 2
            for acceptor in pair:
                acceptor.close()
            assert board.least() == 0
            await _end(writers, *counts)

    asyncio.run(main())


def test_one_that_has_more_takes_them_all_the_same_when_the_other_does_not_come(listener: socket.socket, board: Board) -> None:
    async def main() -> None:
        count: list[asyncio.BaseTransport] = []
        board.put(9, 0)  # somebody who holds nothing, and is stuck
        acceptor = _acceptor(listener, board, 0, count)
        acceptor.start()
        writers = await _connect(listener, 10)
        await _until(lambda: len(count) == 10)
        acceptor.close()
        await _end(writers, count)

    asyncio.run(main())


def test_what_comes_after_the_close_waits_for_somebody_else(listener: socket.socket, board: Board) -> None:
    async def main() -> None:
        early: list[asyncio.BaseTransport] = []
        late: list[asyncio.BaseTransport] = []
        first = _acceptor(listener, board, 0, early)
        first.start()
        writers = await _connect(listener, 3)
        await _until(lambda: len(early) == 3)
        first.close()
        await first.wait_closed()
        writers += await _connect(listener, 5)
        second = _acceptor(listener, board, 1, late)
        second.start()
        await _until(lambda: len(late) == 5)
        assert len(early) == 3
        second.close()
        await _end(writers, early, late)

    asyncio.run(main())
