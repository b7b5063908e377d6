"""From a release's manifest to something that answers: environment, files, runner, warm-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import AndonError, CorruptBytes, LoadFailed, NotFound
from andon.models.records import ModelManifest
from andon.releases.records import ReleaseManifest
from andon.serving.batching import Batcher, Work
from andon.serving.environments import build, current_lock, parse_pins
from andon.serving.runners import ChildRunner, ChildSpec, InProcessRunner, ModelSpec, Runner
from andon.serving.source import ReleaseSource, Target
from andon.serving.validation import RowCodec, output_lists
from andon.store.ports import Blobs
from andon.tracking.records import EnvironmentLock

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray[Any, Any]]

WARM_UP_RUNS = 3
_ONNX_LIBRARIES = ("onnxruntime", "numpy")


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
        runner = await asyncio.to_thread(InProcessRunner, spec) if isinstance(spec, ModelSpec) else ChildRunner(spec)
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
        )
        if runs_in_front(manifest, model, current_lock()):
            return manifest, model, spec
        python = self._build(manifest.environment, self._root, self._blobs)
        self._started += 1
        name = target.address.replace(":", "-").replace("/", "_").replace("@", "-")
        child = ChildSpec(
            python=str(python),
            model=spec,
            log=str(self._logs / f"{name}.{self._started}.log"),
            code=str(self._lay_out(manifest.code.tree)) if manifest.code.tree else None,
            transform=manifest.code.transform,
            pins=parse_pins(manifest.environment),
            load_timeout_s=float(manifest.settings.get("load_timeout_s", 60.0)),
            batch_timeout_s=float(manifest.settings.get("batch_timeout_s", 30.0)),
        )
        return manifest, model, child

    def _lay_out(self, digest: str) -> Path:
        """The files of a tree on this machine; laid out once, by whichever process comes first."""
        folder = self._root / "trees" / digest.removeprefix("b3:")
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
    """Whether a release may run in the front's process: ONNX, no code, and the libraries that execute it at the versions it pins."""
    if model.format != "onnx" or manifest.code.transform is not None:
        return False
    pins, ours = parse_pins(manifest.environment), parse_pins(here)
    return all(pins.get(name, ours.get(name)) == ours.get(name) for name in _ONNX_LIBRARIES)


async def _warm_up(loaded: Loaded) -> None:
    """Run the release on its example rows as requests will; anything wrong there is a failure to load."""
    example = loaded.manifest.example
    if not example and loaded.manifest.code.transform is None:
        example = loaded.model.example  # the model's columns are the request's
    if not example:
        return
    try:
        rows = loaded.codec.check_rows(list(example))
        for count in [len(rows)] * WARM_UP_RUNS + [1] * WARM_UP_RUNS:
            outputs = await loaded.runner.run(loaded.codec.to_columns(rows[:count]), count)
            lists = output_lists(outputs, loaded.signature)
            if any(len(values) != count for values in lists.values()):
                raise LoadFailed(f"the release gave another number of values than its {count} example rows")
    except LoadFailed:
        raise
    except AndonError as error:
        raise LoadFailed(f"the release fails on its own example: {error.message}", **error.fields) from error
