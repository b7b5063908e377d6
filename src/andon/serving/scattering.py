"""From an executed batch back to its requests, each with its own rows, its own error and its own entry in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from andon.core.errors import AndonError
from andon.serving.batching import Work
from andon.serving.loading import Loaded
from andon.serving.recording import Recorder
from andon.serving.validation import output_lists

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]


class Scatterer:
    """Gives the requests of executed batches their outputs, which ``recorder`` has written down before."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def scatter(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        """Resolve each request's future. Raises ``ModelFailed`` when the outputs of one request alone are no answer."""
        for work in batch:
            if work.future.done():  # it has gone, or was told that its time is up: what nobody got is no answer
                batch, inputs, outputs = _without_the_gone(batch, inputs, outputs)
                break
        if not batch:
            return
        try:
            lists = output_lists(outputs, loaded.signature)
        except AndonError:
            if len(batch) == 1:
                raise
            self._apart(loaded, batch, inputs, outputs)
            return
        self._recorder.record(loaded, batch, inputs, {name: outputs[name] for name in lists})
        if len(batch) == 1 and not batch[0].raw:
            batch[0].future.set_result(lists)
            return
        at = 0
        for work in batch:
            given = {name: outputs[name] for name in lists} if work.raw else lists
            work.future.set_result({name: values[at : at + work.n] for name, values in given.items()})
            at += work.n

    def _apart(self, loaded: Loaded, batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
        at = 0
        for work in batch:
            part = slice(at, at + work.n)
            at += work.n
            try:
                self.scatter(loaded, [work], {k: v[part] for k, v in inputs.items()}, {k: v[part] for k, v in outputs.items()})
            except AndonError as error:
                if not work.future.done():
                    work.future.set_exception(error)


def _without_the_gone(batch: Sequence[Work], inputs: Columns, outputs: Columns) -> tuple[list[Work], Columns, Columns]:
    import numpy as np

    there = [work for work in batch if not work.future.done()]
    rows = np.repeat([not work.future.done() for work in batch], [work.n for work in batch])
    return there, {name: values[rows] for name, values in inputs.items()}, {name: values[rows] for name, values in outputs.items()}
