"""From what the ledger and the logs keep to what the checks look at: frames of served rows, and a release's reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from andon import datasets, registry
from andon.core.clocks import to_us
from andon.core.errors import AndonError, Incompatible, NotFound
from andon.models.records import Column, Dtype
from andon.monitoring.importance import permutation_importance
from andon.monitoring.profiles import Profile
from andon.monitoring.quality import Expectations, expectations
from andon.monitoring.records import Array, Frame, Policy, Reference, concat, frame
from andon.monitoring.training_data import sound
from andon.releases import ReleaseManifest, read_scored
from andon.store import Store
from andon.telemetry import served_rows

if TYPE_CHECKING:
    import pyarrow as pa

Replay = Callable[[ReleaseManifest, Mapping[str, Array]], Array]
"""A port: any release's predictions for request columns, exactly as production would answer them."""

POLICY_PREFIX = "monitor/"


@dataclass(frozen=True, slots=True)
class Born:
    """A release with what it was born with, computed once."""

    address: str
    manifest: ReleaseManifest
    reference: Reference
    profile: Profile
    expected: Expectations


def served_frame(
    store: Store, manifest: ReleaseManifest, start_us: int, end_us: int, known_by_us: int, *, thin: int = 1, whole_from_us: int = 0
) -> Frame:
    """The rows that a service answered in production with ``start_us <= event time < end_us``, with labels known by ``known_by_us``.

    ``thin`` and ``whole_from_us`` are those of ``served_rows``.
    """
    table = served_rows(store, manifest.service, start_us, end_us, known_by_us=known_by_us, thin=thin, whole_from_us=whole_from_us)
    inputs = {column.name: _values(table, f"input.{column.name}", column.dtype) for column in watched_inputs(manifest)}
    return frame(
        _instants(table, "event_time"),
        inputs,
        prediction=_numbers(table, f"output.{manifest.signature.outputs[0].name}"),
        label=_numbers(table, "label"),
        release=_values(table, "release"),
        request_id=_values(table, "request_id"),
        source_us=_sources(table, manifest),
    )


def born(store: Store, address: str, policy: Policy, replay: Replay) -> Born:
    """A release's reference: its training snapshot and its gate's examples, as it answered them itself.

    Raises ``NotFound`` naming what was not pinned (training data, evaluation, label or event time), since there is then nothing to judge
    production against; ``Incompatible`` when it answers with tensors.
    """
    version = registry.get(store, address)
    manifest = registry.manifest_of(version, ReleaseManifest)
    label, event_time = manifest.settings.get("label"), manifest.settings.get("event_time")
    for what, there in (("training data", manifest.data), ("evaluation", manifest.scored), ("label", label), ("event time", event_time)):
        if not there:
            raise NotFound(f"this release was made without {what}, so production has nothing to be compared with", release=address)
    first = manifest.signature.outputs[0]
    if first.shape:
        raise Incompatible("the first output is a tensor, which monitors do not watch", release=address, output=first.name)
    gate = _gate_frame(read_scored(store, str(manifest.scored)), manifest)
    training = _training_frame(datasets.read(store, manifest.data[0].address).table(), manifest, str(label), str(event_time))
    # With the gate's month: the level of "last week" is then that of the week before the launch, not of five weeks before.
    # An instant moves on by nature, so a profile of it would call every new month a fault: how old the inputs are is judged instead
    # (`source_time`).
    instants = {column.name for column in manifest.signature.inputs if column.dtype == "datetime"}
    kept, profile = sound(concat([_without(training, instants), _without(gate, instants)]), policy)
    training = kept.between(0, int(gate.event_us[0])) if len(gate) else kept
    whole = len(watched_inputs(manifest)) == len(manifest.signature.inputs)  # else the release cannot be asked again with these inputs
    importance = permutation_importance(gate, lambda columns: replay(manifest, columns), seed=0, loss=policy.loss) if whole else {}
    reference = Reference(training, gate, importance)
    return Born(str(version.address), manifest, reference, profile, expectations(reference, policy))


def policy_of(store: Store, service: str) -> Policy:
    """The monitors' policy of a service: ``policy:monitor/SERVICE`` if it is registered, else the defaults."""
    try:
        version = registry.get(store, f"policy:{POLICY_PREFIX}{service}")
    except NotFound:
        return Policy()
    return registry.manifest_of(version, Policy)


def register_monitor_policy(store: Store, service: str, policy: Policy, **who: Any) -> registry.Version:
    """Register ``policy:monitor/SERVICE``; takes ``actor`` and ``reason``."""
    return registry.register(store, "policy", f"{POLICY_PREFIX}{service}", policy, **who)


def typed(replay: Replay) -> Replay:
    """A replay that takes a frame's columns (numbers are float64 there, instants microseconds) and hands on what the signature says."""

    def call(manifest: ReleaseManifest, columns: Mapping[str, Array]) -> Array:
        kinds = {column.name: column.dtype for column in manifest.signature.inputs}
        return replay(manifest, {name: _as_sent(values, kinds.get(name)) for name, values in columns.items()})

    return call


def _as_sent(values: Array, dtype: Dtype | None) -> Array:
    if values.dtype.kind != "f" or dtype not in ("boolean", "datetime"):
        return values
    null = np.isnan(values)
    if dtype == "datetime":
        return np.where(null, np.iinfo(np.int64).min, np.nan_to_num(values)).astype(np.int64).view("M8[us]")  # the least is NaT
    if not null.any():
        return values.astype(bool)
    told = values.astype(bool).astype(object)
    told[null] = None
    return told


def _without(rows: Frame, names: Collection[str]) -> Frame:
    return dataclasses.replace(rows, inputs={name: column for name, column in rows.inputs.items() if name not in names})


def replay_or_none(replay: Replay, manifest: ReleaseManifest | None, rows: Frame) -> Array | None:
    """What another release says to the same inputs, or None when it cannot be run on them."""
    if manifest is None or any(column.name not in rows.inputs for column in manifest.signature.inputs):
        return None
    try:
        return replay(manifest, {column.name: rows.inputs[column.name] for column in manifest.signature.inputs})
    except AndonError:
        return None  # its environment or model is gone: the comparison is then undecided, and says so


def _sources(table: pa.Table, manifest: ReleaseManifest) -> Array | None:
    """When the source said what the inputs say, if the release's settings name the input that tells (``source_time``)."""
    name = f"input.{manifest.settings.get('source_time')}"
    if name not in table.column_names:
        return None
    import pyarrow as pa

    column = table[name]
    if not pa.types.is_timestamp(column.type):
        return None
    return np.asarray(column.cast(pa.timestamp("us")).cast(pa.int64()).fill_null(-1).to_numpy(), dtype=np.int64)


def watched_inputs(manifest: ReleaseManifest) -> list[Column]:
    """The inputs that monitors look at: those of one value a row."""
    return [column for column in manifest.signature.inputs if not column.shape]


def unwatched(manifest: ReleaseManifest) -> str:
    """What is said of the inputs that monitors do not look at; nothing when there are none."""
    tensors = [f"{column.name} ({column.dtype} {list(column.shape)})" for column in manifest.signature.inputs if column.shape]
    return f"not watched, since they are tensors: {', '.join(tensors)}" if tensors else ""


def _gate_frame(table: pa.Table, manifest: ReleaseManifest) -> Frame:
    inputs = {column.name: _values(table, f"input.{column.name}", column.dtype) for column in watched_inputs(manifest)}
    return frame(_instants(table, "event_time"), inputs, prediction=_numbers(table, "prediction"), label=_numbers(table, "label"))


def _training_frame(table: pa.Table, manifest: ReleaseManifest, label: str, event_time: str) -> Frame:
    missing = [name for name in (label, event_time) if name not in table.column_names]
    if missing:
        raise NotFound(f"the training snapshot has no column {missing[0]!r}", dataset=manifest.data[0].address)
    there = [column for column in watched_inputs(manifest) if column.name in table.column_names]
    inputs = {column.name: _values(table, column.name, column.dtype) for column in there}
    return frame(_instants(table, event_time), inputs, label=_numbers(table, label))


def _instants(table: pa.Table, name: str) -> Array:
    import pyarrow as pa

    column = table[name]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz))
    return np.asarray(column.cast(pa.int64()).to_numpy())


def _numbers(table: pa.Table, name: str) -> Array:
    import pyarrow as pa

    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _values(table: pa.Table, name: str, dtype: Dtype = "string") -> Array:
    """A column as a frame holds it: float64 with NaN for null (an instant in microseconds), or text with None."""
    import pyarrow as pa

    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    kind = table[name].type
    if pa.types.is_timestamp(kind):
        return _numbers(
            table.set_column(table.column_names.index(name), name, table[name].cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())), name
        )
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(table, name)
    values = np.empty(table.num_rows, dtype=object)
    values[:] = table[name].to_pylist()
    if dtype == "datetime":  # a training snapshot may hold its instants as text
        return np.array([np.nan if value is None else to_us(value, field=name) for value in values], dtype=np.float64)
    return values


def encode_state(state: msgspec.Struct) -> Any:
    """A state as JSON-like values, for a cursor."""
    return msgspec.to_builtins(state)
