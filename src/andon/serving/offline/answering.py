"""One batch through a release's runner, so that a row on which it fails is only that row's error.

A batch that fails is halved until the rows that it fails on are alone: k bad rows of n cost at most about 2 k log2(n) more calls. A row on
which the runner's process ends is tried once more on its own. An answer that is NaN or infinite is that row's error, as it is online.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import ModelFailed, Unavailable
from andon.serving.loading import Loaded
from andon.serving.offline.sizing import Cost
from andon.serving.runners import RunnerDied

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

RESTART_TRIES = 12
"""A runner's process that ended is waited for this often (about a minute in all) before the job stops."""


class Answered(msgspec.Struct, frozen=True):
    """Outputs of the rows that were answered, which rows those are, and why the others were not (row -> reason)."""

    outputs: Columns
    good: np.ndarray[Any, Any]
    failed: dict[int, str]


async def answer(loaded: Loaded, columns: Columns, n: int, cost: Cost) -> Answered:
    """Run ``n`` rows. Raises ``ModelFailed`` when the release lacks an output it declares, ``Unavailable`` when it does not come back."""
    import numpy as np

    failed: dict[int, str] = {}
    pieces: list[tuple[int, Columns]] = []
    await _run(loaded, columns, 0, n, cost, pieces, failed)
    rows = [np.arange(start, start + len(next(iter(part.values())))) for start, part in pieces]
    good = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    names = [column.name for column in loaded.signature.outputs]
    outputs = {name: _joined([part[name] for _, part in pieces]) for name in names} if pieces else {}
    fine = _finite(outputs, names, good, failed)
    if fine is not None:
        good, outputs = good[fine], {name: values[fine] for name, values in outputs.items()}
    return Answered(outputs, good, failed)


async def _run(
    loaded: Loaded, columns: Columns, start: int, n: int, cost: Cost, pieces: list[tuple[int, Columns]], failed: dict[int, str]
) -> None:
    try:
        try:
            outputs = await _once(loaded, columns, n, cost)
        except RunnerDied:
            if n > 1:
                raise
            outputs = await _once(loaded, columns, n, cost)
    except (ModelFailed, RunnerDied) as error:
        if n == 1:
            died = "this row ended the process that runs the release, twice"
            failed[start] = died if isinstance(error, RunnerDied) else error.message
            return
        half = n // 2
        for first, size in ((0, half), (half, n - half)):
            part = {name: values[first : first + size] for name, values in columns.items()}
            await _run(loaded, part, start + first, size, cost, pieces, failed)
        return
    missing = [column.name for column in loaded.signature.outputs if column.name not in outputs]
    if missing:
        gave = ", ".join(outputs)
        raise ModelFailed("the release did not give this output", field=missing[0], gave=gave, next_step=f"andon show {loaded.address}")
    pieces.append((start, outputs))


async def _once(loaded: Loaded, columns: Columns, n: int, cost: Cost) -> Columns:
    began = time.perf_counter()
    for attempt in range(RESTART_TRIES):
        try:
            outputs = await loaded.runner.run(columns, n)
            break
        except RunnerDied:
            raise
        except Unavailable:  # its process is being started again, which the runner waits for, some seconds each time
            if attempt == RESTART_TRIES - 1:
                raise
            await asyncio.sleep(0.5)
    if any(values.shape[0] != n for values in outputs.values()):
        raise ModelFailed(f"the release gave another number of values than its {n} rows")
    cost.learn(n, time.perf_counter() - began)
    return outputs


def _joined(parts: list[Any]) -> Any:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _finite(outputs: Columns, names: list[str], good: Any, failed: dict[int, str]) -> Any:
    """Which answers are values, when not all are; the others are added to ``failed``."""
    import numpy as np

    fine = np.ones(len(good), dtype=bool)
    for name in names if outputs else ():
        values = outputs[name]
        if values.dtype.kind == "f":
            finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            for row in good[~finite & fine].tolist():
                failed[row] = f"the release answered with NaN or an infinity ({name})"
            fine &= finite
    return None if fine.all() else fine
