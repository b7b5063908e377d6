"""The flow of a file through a release: read and check, answer, write, each while the next batch is in the stage before it.

At most ``IN_FLIGHT`` batches are checked and not yet written, whatever the sizes of input and output: that is what bounds the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.models.records import Signature
from andon.serving.loading import Loaded
from andon.serving.offline import inputs
from andon.serving.offline.answering import Answered, answer
from andon.serving.offline.columns import Checked, check
from andon.serving.offline.outputs import Failed
from andon.serving.offline.records import InputFile
from andon.serving.offline.sizing import MAX_ROWS, Cost, Limits, choose

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

IN_FLIGHT = 3


class Slice(msgspec.Struct, frozen=True):
    """Rows of one part on their way: the batch, where its rows were, the checked columns, and lines that were no rows."""

    part: int
    positions: np.ndarray[Any, Any]
    batch: pa.RecordBatch
    checked: Checked
    bad: tuple[inputs.Bad, ...]


class Written(msgspec.Struct, frozen=True):
    """What becomes of a slice: the kept columns and outputs of answered rows, and the failed ones."""

    part: int
    rows: int
    kept: pa.RecordBatch
    """Without columns when none are kept."""
    outputs: dict[str, np.ndarray[Any, Any]]
    failed: tuple[Failed, ...]


class Sizer:
    """The batch size of a job, as it is learnt."""

    def __init__(self, memory_bytes: int, batch_s: float, *, most_rows: int = MAX_ROWS) -> None:
        self._most_rows = most_rows
        self.cost = Cost()
        self.rows = 0
        self._memory_bytes = memory_bytes
        self._batch_s = batch_s

    def next(self, chunk: pa.RecordBatch) -> int:
        """Rows of the next batch, given what rows like these weigh."""
        # In memory, a row is there as Arrow, as NumPy and as output at least, and IN_FLIGHT batches are.
        row_bytes = 3.0 * IN_FLIGHT * max(8.0, chunk.nbytes / max(1, chunk.num_rows))
        limits = Limits(row_bytes=row_bytes, memory_bytes=self._memory_bytes, batch_s=self._batch_s, most_rows=self._most_rows)
        self.rows = choose(self.cost.fit(), self.rows, limits)
        return self.rows


def slices(file: InputFile, columns: Sequence[str], signature: Signature, part_rows: int, done: set[int], sizer: Sizer) -> Iterator[Slice]:
    """The rows of a file that no finished part holds, checked, in order."""
    first = 0
    while first in done:
        first += 1
    for chunk in inputs.read(file, columns, first * part_rows):
        for part, positions, batch, bad in _cut(chunk, part_rows):
            if part in done:
                continue
            at = 0
            while at < batch.num_rows or (at == 0 and bad):
                size = max(1, sizer.next(batch))
                piece = batch.slice(at, size)
                checked = check(piece, signature, text=file.format == "csv")
                yield Slice(part, positions[at : at + size], piece, checked, bad if at == 0 else ())
                at += size


def _cut(chunk: inputs.Chunk, part_rows: int) -> Iterator[tuple[int, Any, pa.RecordBatch, tuple[inputs.Bad, ...]]]:
    """A chunk, cut where its rows belong to different parts."""
    import numpy as np

    numbers = chunk.positions // part_rows
    parts = sorted({*np.unique(numbers).tolist(), *(one.row // part_rows for one in chunk.bad)})
    for part in parts:
        first, last = np.searchsorted(numbers, [part, part + 1])
        bad = tuple(one for one in chunk.bad if one.row // part_rows == part)
        yield part, chunk.positions[first:last], chunk.batch.slice(first, last - first), bad


async def flow(loaded: Loaded, source: Iterator[Slice], keep: Sequence[str], sizer: Sizer) -> AsyncIterator[Written]:
    """Answer slices, in order; the next ones are read and checked meanwhile. Raises what reading or the release raises."""
    pending: asyncio.Queue[asyncio.Task[Written] | None] = asyncio.Queue(IN_FLIGHT - 1)

    async def feed() -> None:
        while (piece := await asyncio.to_thread(next, source, None)) is not None:
            await pending.put(asyncio.create_task(_answer(loaded, piece, keep, sizer)))
        await pending.put(None)

    feeding = asyncio.create_task(feed())
    try:
        while True:
            taking = asyncio.create_task(pending.get())
            await asyncio.wait((taking, feeding), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done() and feeding.done() and pending.empty():
                taking.cancel()
                feeding.result()  # raises what reading met
                return
            task = await taking
            if task is None:
                feeding.result()
                return
            yield await task
    finally:
        feeding.cancel()
        left = [task for task in [pending.get_nowait() for _ in range(pending.qsize())] if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(feeding, *left, return_exceptions=True)


async def _answer(loaded: Loaded, piece: Slice, keep: Sequence[str], sizer: Sizer) -> Written:
    import numpy as np

    n = len(piece.checked.good)
    answered = await answer(loaded, piece.checked.columns, n, sizer.cost) if n else Answered({}, np.empty(0, dtype=np.int64), {})
    return _outcome(piece, answered, keep)


def _outcome(piece: Slice, answered: Answered, keep: Sequence[str]) -> Written:
    import pyarrow as pa

    reasons = dict(piece.checked.reasons)
    reasons |= {int(piece.checked.good[row]): why for row, why in answered.failed.items()}
    failed = [Failed(int(piece.positions[row]), why, _text(piece.batch, row)) for row, why in sorted(reasons.items())]
    failed += [Failed(one.row, one.reason, one.text) for one in piece.bad]
    kept = piece.batch.select(list(keep))
    if keep and len(answered.good) != piece.batch.num_rows:
        kept = kept.take(pa.array(piece.checked.good[answered.good]))
    return Written(piece.part, len(answered.good), kept, answered.outputs, tuple(sorted(failed, key=lambda one: one.row)))


def _text(batch: pa.RecordBatch, row: int) -> str:
    return msgspec.json.encode(batch.slice(row, 1).to_pylist()[0], enc_hook=str).decode()
