"""Releasing, as every face offers it: read the examples, pin what is running here, score through the real runner, ask the gate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon import registry, releases
from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.errors import Forbidden, GateRefused, GateUndecided, Incompatible, InvalidInput, LoadFailed, NotFound
from andon.core.verdicts import Answer
from andon.models.records import ModelManifest, Signature
from andon.models.signatures import normalise
from andon.operations.moving import seconds
from andon.operations.session import current_store
from andon.releases import CodePin, Examples, Made
from andon.serving.environments import normal, parse_pins
from andon.serving.limits import limits_of
from andon.store import Store
from andon.tracking.records import EnvironmentLock

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CODE_BYTES = 20 * 1024 * 1024


def release(
    service: str,
    *,
    model: str | Address,
    gate: str | Address = "policy:gate/default",
    evaluation: str | Address | None = None,
    label: str | None = None,
    event_time: str | None = None,
    baseline: str | None = None,
    data: str | Address | Sequence[str | Address] = (),
    code: str | os.PathLike[str] | None = None,
    transform: str | None = None,
    signature: Signature | None = None,
    example: Sequence[Mapping[str, Any]] | None = None,
    environment: EnvironmentLock | None = None,
    prompts: Sequence[str] = (),
    indexes: Sequence[str] = (),
    features: Sequence[str] = (),
    policies: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    waive: str | None = None,
    waiver: str = "14d",
    allow_pickle: bool = False,
    why: str = "",
    strict: bool = True,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Made:
    """Pin everything that answers a request into ``release:SERVICE@N``, and ask the gate whether it is good enough.

    ``evaluation`` is a dataset with the request's columns, a ``label`` column, an ``event_time`` column and maybe a ``baseline`` column (an
    honest baseline's prediction). The candidate answers those examples itself, through its own environment and ``transform``
    (``module:function`` in the folder ``code``), and so does the release in production now. ``data`` names the training snapshots.
    ``allow_pickle`` is needed for a model that another client saved as code of its own: serving it runs that code, in a child process.

    Returns the release whatever the gate said when ``strict`` is false or a waiver was given; otherwise raises ``GateRefused`` or
    ``GateUndecided`` with the address of the release, which is kept with its verdicts. Raises ``NotFound``, ``InvalidInput``,
    ``BuildFailed``, ``LoadFailed`` or ``ModelFailed`` when there is nothing to judge; nothing is registered then.
    """
    store, actor = store or current_store(), actor or current_actor()
    names = [str(item) for item in ([data] if isinstance(data, str | Address) else data)]
    environment = environment or _environment()
    check_foreign(store, model, environment, allow_pickle=allow_pickle)
    limits_of(settings or {})
    manifest = releases.assemble(
        store,
        service,
        model=model,
        environment=environment,
        code=pin_code(store, code, transform),
        signature=signature,
        data=tuple(names),
        evaluation=None if evaluation is None else str(evaluation),
        features=tuple(features),
        prompts=tuple(prompts),
        indexes=tuple(indexes),
        policies=tuple(policies),
        example=None if example is None else tuple(dict(row) for row in example),
        settings={"label": label, "event_time": event_time, "baseline": baseline, **(settings or {})},
    )
    examples = None
    if evaluation is not None:
        examples = read_examples(store, str(evaluation), label=label, event_time=event_time, baseline=baseline, training=names[:1])
    from andon.serving.replaying import Replayer

    with Replayer(store) as score:
        made = releases.make(
            store,
            manifest,
            examples=examples,
            score=score,
            gate=str(gate),
            actor=actor,
            reason=why,
            waive=waive,
            waiver_s=seconds(waiver),
        )
    if strict and waive is None:
        raise_unless_go(made)
    return made


def check_foreign(store: Store, model: str | Address, environment: EnvironmentLock, *, allow_pickle: bool) -> None:
    """Refuse a model that another client saved and this release could not serve, before anything is judged.

    Raises ``LoadFailed`` when its files are not here, ``Forbidden`` when loading it runs code nobody asked for by name, ``Incompatible``
    when only its own client loads it and the environment has other versions than it was saved with.
    """
    version = registry.get(store, Address.parse(model, kind="model"))
    manifest = registry.manifest_of(version, ModelManifest)
    named = str(version.address)
    if manifest.files is None:
        step = "log its files to this server, register it again, and release that version"
        raise LoadFailed("this model's files were not here when it was registered", model=named, next_step=step)
    if manifest.format != "mlflow":
        return
    if "pickle" in manifest.flags and not allow_pickle:
        raise Forbidden(
            "serving this model runs code from its files",
            model=named,
            next_step="say --allow-pickle (allow_pickle=True) if you trust whoever made it; better, log it as ONNX or skops",
        )
    python = str(manifest.facts.get("python", ""))
    wrong = [f"Python {python}, not {environment.python}"] if python and python.split(".")[:2] != environment.python.split(".")[:2] else []
    here = parse_pins(environment)
    for name, wanted in manifest.libraries.items():
        found = here.get(normal(name))
        if found is None or (found != wanted and found.partition("+")[0] != wanted):
            wrong.append(f"{name}=={wanted}, not {found or 'nothing'}")
    if wrong:
        raise Incompatible(
            f"this environment is not the one that the model was saved with: it needs {'; '.join(wrong[:5])}",
            model=named,
            next_step="install the model's requirements.txt in an environment with Andon, and release from there (or pass its lock)",
        )


def raise_unless_go(made: Made) -> None:
    """Raise what the gate's answer means, naming the checks that stood in the way."""
    if made.answer is Answer.GO:
        return
    bad = "fail" if made.answer is Answer.NO else "undecided"
    stopped = [item.verdict for item in made.judged if item.blocks and not item.waived and item.verdict.status == bad]
    said = "; ".join(f"{verdict.check}: {verdict.message}" for verdict in stopped) or "there were no evaluation examples to judge it on"
    error = GateRefused if made.answer is Answer.NO else GateUndecided
    raise error(said, release=str(made.address), next_step=f"andon show {made.address}")


def pin_code(store: Store, folder: str | os.PathLike[str] | None, transform: str | None) -> CodePin:
    """Pin the commit this process runs from, and the serving code in ``folder`` with its ``transform``."""
    if transform is not None and folder is None:
        raise InvalidInput("a transform needs the folder that holds its module", field="code")
    tree = None
    if folder is not None:
        path = Path(folder)
        if not path.is_dir():
            raise NotFound("there is no such folder of code", field="code", got=path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if size > MAX_CODE_BYTES:
            raise InvalidInput("this folder is too large to be code", field="code", got=size, limit=MAX_CODE_BYTES)
        tree = _put_code(store, path)
    from andon.tracking import capture_facts

    here = capture_facts(store)[0].code
    return CodePin(commit=here.commit, dirty_diff=here.dirty_diff, tree=tree, transform=transform)


def _put_code(store: Store, path: Path) -> str:
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(scratch, "code")
        shutil.copytree(path, clean, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv"))
        return store.blobs.put_tree(clean)


def _environment() -> EnvironmentLock:
    from andon.tracking import capture_environment

    return capture_environment()


def read_examples(
    store: Store, dataset: str, *, label: str | None, event_time: str | None, baseline: str | None, training: Sequence[str] = ()
) -> Examples:
    """A dataset's rows as gate examples, in event-time order. Raises ``InvalidInput`` naming the column that is missing."""
    import numpy as np

    from andon import datasets

    table = datasets.read(store, dataset).table()
    if label is None or event_time is None:
        raise InvalidInput("say which columns hold the label and the event time", field="label" if label is None else "event_time")
    for field, name in (("label", label), ("event_time", event_time), ("baseline", baseline)):
        if name is not None and name not in table.column_names:
            raise InvalidInput(f"{dataset} has no column {name!r}; it has {', '.join(table.column_names)}", field=field)
    event_us = _instants(table, event_time)
    order = np.argsort(event_us, kind="stable")
    columns = {name: column_of(table, name)[order] for name in table.column_names if name not in (label, event_time, baseline)}
    return Examples(
        columns=columns,
        label=_numbers(table, label, "label")[order],
        event_us=event_us[order],
        baseline=None if baseline is None else _numbers(table, baseline, "baseline")[order],
        baseline_name=baseline or "",
        training=_training(store, training),
    )


def _training(store: Store, names: Sequence[str]) -> dict[str, Any]:
    from andon import datasets

    if not names:
        return {}
    table = datasets.read(store, names[0]).table()
    return {name: column_of(table, name) for name in table.column_names}


def _numbers(table: pa.Table, name: str, field: str) -> Any:
    """A label or baseline column as float64. Raises ``InvalidInput`` for a column of anything but numbers."""
    import pyarrow.types as t

    kind = table[name].type
    value = kind.value_type if t.is_dictionary(kind) else kind
    if not (t.is_boolean(value) or t.is_integer(value) or t.is_floating(value) or t.is_decimal(value) or t.is_null(value)):
        what = "labels must be" if field == "label" else "a baseline's predictions must be"
        raise InvalidInput(f"{what} numbers (0/1 for classes); the column {name!r} is {kind}", field=field, got=str(kind))
    return column_of(table, name).astype(float)


def _instants(table: pa.Table, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[name]
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    if not pa.types.is_timestamp(column.type):
        raise InvalidInput("an event time is a timestamp or microseconds since 1970", field="event_time", got=str(column.type))
    if column.type.tz is None:
        column = pc.assume_timezone(column, "UTC")
    return column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()


def column_of(table: pa.Table, name: str) -> Any:
    """A table's column as numpy: float64 with NaN for null, bool, int64, datetime64[us], ``[n, *shape]`` for lists of
    one shape, or object with None for null."""
    import numpy as np
    import pyarrow as pa

    column = table[name]
    if pa.types.is_boolean(column.type) and column.null_count == 0:
        return column.to_numpy().astype(bool)
    if pa.types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy().astype(np.int64)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us")).to_numpy()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        with contextlib.suppress(InvalidInput):  # lists of several lengths are no tensor: they stay lists
            return normalise(column.to_pylist(), name)
        lists = np.empty(len(column), dtype=object)
        lists[:] = column.to_pylist()
        return lists
    return np.array(column.to_pylist(), dtype=object)


def current_release(service: str, *, channel: str = releases.PRODUCTION, store: Store | None = None) -> registry.Version:
    """The release that holds a channel now. Raises ``NotFound``."""
    return registry.get(store or current_store(), Address("service", service, None, channel))
