"""Bodies piece by piece, with no socket: what is taken, what is given, and what is let go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.digests import digest_bytes
from andon.core.errors import DiskFull
from andon.store import Store, memory_store
from andon.tracking import Artifact
from andon.wire.mlflow import artifact_streams as streams
from andon.wire.mlflow.artifact_paths import plain
from andon.wire.mlflow.errors import WireError


class Sink:
    """Keeps what came, and whether it was let go; ``fails`` names the write that raises."""

    def __init__(self, fails: int = -1) -> None:
        self.came, self.writes, self.dropped, self._fails = b"", 0, False, fails

    @property
    def size_bytes(self) -> int:
        return len(self.came)

    def write(self, pieces: Any) -> None:
        self.writes += 1
        if self.writes == self._fails:
            raise DiskFull
        self.came += b"".join(pieces)

    def keep(self) -> str:
        return digest_bytes(self.came)

    def drop(self) -> None:
        self.dropped = True


def _sender(pieces: list[bytes], end: dict[str, Any] | None = None) -> Callable[[], Awaitable[Any]]:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append(end or {"type": "http.request", "body": b"", "more_body": False})
    left = iter(messages)

    async def receive() -> Any:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()  # a client that says nothing more
        return message

    return receive


def _take(sink: Sink, receive: Callable[[], Awaitable[Any]], limit: int = 1 << 30) -> Sink:
    return asyncio.run(streams.take(receive, lambda: sink, limit))


@pytest.mark.parametrize("sizes", [[], [0], [1], [65_536] * 40, [3_000_000, 5], [1, 0, 2_000_000]])
def test_a_body_arrives_in_order(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    sink = _take(Sink(), _sender(pieces))
    assert (sink.came, sink.dropped) == (b"".join(pieces), False)


def test_small_pieces_are_written_together() -> None:
    assert _take(Sink(), _sender([b"x" * 1_000] * 3_000)).writes <= 4


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_sink_that_fails_is_let_go(fails: int) -> None:
    sink = Sink(fails)
    with pytest.raises(DiskFull):
        _take(sink, _sender([b"x" * 1_100_000] * 3))
    assert sink.dropped


def test_a_client_that_leaves_takes_everything_with_it() -> None:
    sink = Sink()
    with pytest.raises(streams.Gone):
        _take(sink, _sender([b"x" * 1_100_000] * 3, {"type": "http.disconnect"}))
    assert sink.dropped


def test_a_body_beyond_the_limit_is_read_to_its_end_and_refused() -> None:
    for total, refused in ((3_000, False), (3_001, True)):
        sink, receive = Sink(), _sender([b"x" * 1_000] * 3 + [b"x" * (total - 3_000)] * 2)
        if refused:
            with pytest.raises(WireError) as caught:
                _take(sink, receive, 3_001)
            assert caught.value.status == 413
        else:
            _take(sink, receive, 3_000)
        assert sink.dropped is refused


def test_a_client_that_stops_talking_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_S", 0.05)
    sink = Sink()
    with pytest.raises(WireError) as caught:
        _take(sink, _sender([b"x"] * 3, {"type": "http.request", "body": b"y", "more_body": True}))
    assert (caught.value.status, sink.dropped) == (408, True)


def test_a_reader_that_leaves_stops_the_reading() -> None:
    data = os.urandom(20 << 20)
    with memory_store() as store:
        digest = store.blobs.put(data)
        said, sent = _give(store, digest, len(data), leaves_after=2)
    assert said == 200
    assert 2 << 20 <= sent < len(data)


def _give(store: Store, digest: str, size: int, leaves_after: int) -> tuple[int, int]:
    sent, status = 0, 0
    left = asyncio.Event()

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent, status
        status = message.get("status", status)
        sent += len(message.get("body", b""))
        if sent >= leaves_after << 20:
            left.set()
        await asyncio.sleep(0)

    file = Artifact(path="a", digest=digest, size_bytes=size, media_type="x/y", at_us=1)
    asyncio.run(streams.give(store, file, {}, receive, send))
    return status, sent


@given(st.binary(max_size=60), st.integers(0, 50))
def test_property_a_range_lies_inside(text: bytes, size: int) -> None:
    span = streams.one_range(text.decode("latin-1"), size)
    assert not span or 0 <= span[0] < span[1] <= size


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_property_a_range_is_what_was_asked(first: int, last: int, size: int) -> None:
    data = bytes(range(size))
    for text, wanted in (
        (f"bytes={first}-{last}", data[first : last + 1] if first <= last else data),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[max(0, size - last) :]),
    ):
        span = streams.one_range(text, size)
        assert (data if span is None else data[slice(*span)] if span else b"") == wanted


@given(st.text(max_size=40))
def test_property_no_name_breaks_out_of_its_header(name: str) -> None:
    said = streams.disposition(name.replace("/", "")).encode("ascii").decode()  # always ASCII
    assert said.startswith('attachment; filename="')
    assert '"' not in said[22:].partition('"; ')[0].rstrip('"').replace('\\"', "")


@given(st.text(st.sampled_from("%2eEfF5cC/.\\:#~0 a"), max_size=12))
def test_property_a_plain_path_decodes_to_itself(text: str) -> None:
    from urllib.parse import unquote

    try:
        path = plain(text)
    except WireError:
        return
    assert unquote(path) == path
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\\" not in path
    assert "#" not in path
