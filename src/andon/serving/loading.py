"""From a release's manifest to something that answers: environment, files, runner, warm-up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.blocks import Block
from andon.core.errors import AndonError, CorruptBytes, LoadFailed, NotFound
from andon.models.records import CODE_FREE, ModelManifest
from andon.releases.records import ReleaseManifest
from andon.serving.batching import Batcher, Work
from andon.serving.costing import Cost
from andon.serving.environments import build, current_lock, parse_pins
from andon.serving.limits import limits_of
from andon.serving.options import options_of
from andon.serving.runners import ChildRunner, ChildSpec, InProcessRunner, ModelSpec, Runner
from andon.serving.source import ReleaseSource, Target
from andon.serving.validation import RowCodec, output_lists
from andon.serving.values import column_dtype
from andon.store.ports import Blobs
from andon.tracking.records import EnvironmentLock

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

WARM_UP_RUNS = 3
OPEN_AXIS = 32
"""How long an axis of any length is in a warm-up without an example."""
_ONNX_LIBRARIES = ("onnxruntime", "numpy")
_XGBOOST = ("xgboost", "xgboost-cpu")
"""The names that its distribution may have."""


class Loaded:
    """A release that is ready to answer."""

    def __init__(self, target: Target, manifest: ReleaseManifest, model: ModelManifest, runner: Runner) -> None:
        self.address = target.address
        self.digest = target.digest
        self.version = target.address.rpartition("@")[2]
        self.header = (b"x-andon-release", target.address.encode())
        self.manifest = manifest
        self.signature = manifest.signature
        self.model = model
        self.codec = RowCodec(manifest.signature)
        self.runner = runner
        self.options = options_of(manifest.settings)
        self.cost = Cost()  # taught by the warm-up, then by the batches
        self.row_bytes = 16 * max(1, len(manifest.signature.inputs))  # about what a decoded row holds
        self.in_flight = 0
        self.batcher: Batcher  # set by the front, whose log its batches end in
        self.idle = asyncio.Event()
        self.idle.set()

    def merge(self, batch: Sequence[Work]) -> Columns:
        """One set of columns of several requests' rows, in their order."""
        if all(work.columns is None for work in batch):
            if len(batch) == 1:
                return self.codec.to_columns(batch[0].rows or ())
            return self.codec.to_columns([row for work in batch for row in work.rows or ()])
        parts = [self.codec.to_columns(work.rows or ()) if work.columns is None else work.columns for work in batch]
        if len(parts) == 1:
            return parts[0]
        import numpy as np

        blocks = [part for part in parts if isinstance(part, Block)]
        if len(blocks) == len(parts):  # of one signature, so of one dtype
            return Block(blocks[0].names, np.concatenate([block.together for block in blocks]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Loader:
    """Loads releases. ``root`` keeps environments and laid-out files, ``logs`` what children print."""

    def __init__(
        self, source: ReleaseSource, blobs: Blobs, root: Path, logs: Path, *, build_environment: Callable[..., Path] = build
    ) -> None:
        self._source = source
        self._blobs = blobs
        self._root = root
        self._logs = logs
        self._build = build_environment
        self._started = 0

    async def load(self, target: Target) -> Loaded:
        """Everything up to and including the warm-up on the release's example. Raises ``BuildFailed`` or ``LoadFailed``."""
        try:
            manifest, model, spec = await asyncio.to_thread(self._prepare, target)
        except (NotFound, CorruptBytes) as error:
            which = ", ".join(str(value) for value in error.fields.values())
            raise LoadFailed(f"a piece of the release is missing or damaged: {error.message} ({which})", **error.fields) from error
        if isinstance(spec, ModelSpec):
            slots = limits_of(manifest.settings).replicas
            runner: Runner = await asyncio.to_thread(InProcessRunner, spec, slots=slots)
        else:
            runner = ChildRunner(spec)
        try:
            if isinstance(runner, ChildRunner):
                await runner.start()
            loaded = Loaded(target, manifest, model, runner)
            await _warm_up(loaded)
        except BaseException:  # also when cancelled, the runner must not outlive its load
            await asyncio.shield(runner.close())
            raise
        return loaded

    def _prepare(self, target: Target) -> tuple[ReleaseManifest, ModelManifest, ModelSpec | ChildSpec]:
        import pyarrow as pa  # noqa: F401  # the first answer's log entry must not wait for this import

        manifest = self._source.release(target.address)
        model = self._source.model(manifest)
        spec = ModelSpec(
            format=model.format,
            path=str(self._lay_out(_files(model))),
            entry=model.entry,
            inputs=tuple((column.name, column.dtype) for column in model.signature.inputs),
            outputs=tuple((column.name, column.dtype) for column in model.signature.outputs),
            flags=model.flags,
            tensors=tuple(column.name for column in model.signature.outputs if column.shape),
        )
        if runs_in_front(manifest, model, current_lock()):
            return manifest, model, spec
        limits = limits_of(manifest.settings)
        python = self._build(manifest.environment, self._root, self._blobs)
        self._started += 1
        name = target.address.replace(":", "-").replace("/", "_").replace("@", "-")
        code = str(self._lay_out(manifest.code.tree)) if manifest.code.tree else None
        child = ChildSpec(
            python=str(python),
            model=spec,
            log=str(self._logs / f"{name}.{self._started}.log"),
            code=code,
            transform=manifest.code.transform,
            pins=parse_pins(manifest.environment),
            limits=limits,
            uses=tuple(folder for folder in (spec.path, code, str(python.parents[1])) if folder and folder.startswith(str(self._root))),
        )
        return manifest, model, child

    def _lay_out(self, digest: str) -> Path:
        """The files of a tree on this machine; laid out once, by whichever process comes first."""
        folder = self._root / "trees" / digest.removeprefix("b3:")
        with contextlib.suppress(OSError):
            os.utime(folder)  # it is asked for: `environments.collect` leaves it
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._blobs.get_tree(digest, folder)
            except (OSError, AndonError):
                if not folder.is_dir():  # else another process was quicker
                    raise
        return folder


def _files(model: ModelManifest) -> str:
    if model.files is None:
        raise LoadFailed("this model's files were not here when it was registered", next_step="register it again, then release that")
    return model.files


def runs_in_front(manifest: ReleaseManifest, model: ModelManifest, here: EnvironmentLock) -> bool:
    """Whether a release may run in the front's process: ONNX or XGBoost, no code, and the libraries that run it at the versions it pins.

    LightGBM and torch programs have no code either, but the one's reader may end the process, and the other's library is too heavy.
    """
    if manifest.code.transform is not None:
        return False
    pins, ours = parse_pins(manifest.environment), parse_pins(here)
    if model.format == "xgboost":
        here_too = any(name in ours and pins.get(name, ours[name]) == ours[name] for name in _XGBOOST)
        return here_too and pins.get("numpy", ours.get("numpy")) == ours.get("numpy")
    if model.format != "onnx" and CODE_FREE not in model.flags:
        return False
    return all(pins.get(name, ours.get(name)) == ours.get(name) for name in _ONNX_LIBRARIES)


async def _warm_up(loaded: Loaded) -> None:
    """Run the release on its example rows as requests will; anything wrong there is a failure to load."""
    example = loaded.manifest.example
    if not example and loaded.manifest.code.transform is None:
        example = loaded.model.example  # the model's columns are the request's
    if not example:
        await _run_zeros(loaded)
        return
    try:
        rows = loaded.codec.check_rows(list(example))
        if isinstance(loaded.runner, ChildRunner):
            loaded.runner.warm_with(loaded.codec.to_columns(rows), len(rows))
        if loaded.runner.slots > 1:  # each process or thread once, before the first request does
            await asyncio.gather(*(loaded.runner.run(loaded.codec.to_columns(rows), len(rows)) for _ in range(loaded.runner.slots)))
        seconds: list[tuple[int, float]] = []
        for count in [len(rows)] * WARM_UP_RUNS + [1] * WARM_UP_RUNS:
            started_s = time.monotonic()
            outputs = await loaded.runner.run(loaded.codec.to_columns(rows[:count]), count)
            seconds.append((count, time.monotonic() - started_s))
            lists = output_lists(outputs, loaded.signature)
            if any(len(values) != count for values in lists.values()):
                raise LoadFailed(f"the release gave another number of values than its {count} example rows")
        for count, taken_s in seconds[1:]:  # the first run of a model is like no other
            loaded.cost.learn(count, taken_s)
    except LoadFailed:
        raise
    except AndonError as error:
        raise LoadFailed(f"the release fails on its own example: {error.message}", **error.fields) from error


async def _run_zeros(loaded: Loaded) -> None:
    """Run one row of zeros through a release of tensors without an example (an image is too large for a manifest): the first request is
    then not the first run. Whether the release takes zeros says nothing of it, so what it raises is dropped."""
    import numpy as np

    inputs = loaded.signature.inputs
    if not any(column.shape for column in inputs) or any(column.dtype in ("string", "datetime") for column in inputs):
        return
    zeros = {
        column.name: np.zeros((1, *(size if size > 0 else OPEN_AXIS for size in column.shape)), dtype=column_dtype(column))
        for column in inputs
    }
    with contextlib.suppress(AndonError):
        await loaded.runner.run(zeros, 1)
