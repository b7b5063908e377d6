"""The scored examples of a release: what its monitors compare production with. One Parquet file in the artifact store."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from andon.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


class Examples(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluation examples in columns, in event-time order, and what is known to compare with."""

    columns: dict[str, Any]
    label: Any
    event_us: Any
    baseline: Any = None
    baseline_name: str = ""
    training: dict[str, Any] = {}


def keep_scored(store: Store, examples: Examples, columns: Any, prediction: Any) -> str:
    """Write ``event_time``, ``input.*``, ``prediction``, ``label`` and ``baseline`` of n examples; returns the file's digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(prediction)
    data = {"event_time": pa.array(np.asarray(examples.event_us, dtype=np.int64), type=pa.timestamp("us", tz="UTC"))}
    data |= {f"input.{name}": _column(values) for name, values in columns.items()}
    data["prediction"] = pa.array(np.asarray(prediction, dtype=float), from_pandas=True)
    data["label"] = pa.array(np.asarray(examples.label, dtype=float), from_pandas=True)
    baseline = np.full(n, np.nan) if examples.baseline is None else np.asarray(examples.baseline, dtype=float)
    data["baseline"] = pa.array(baseline, from_pandas=True)
    buffer = io.BytesIO()
    pq.write_table(pa.table(data), buffer, compression="zstd")
    return store.blobs.put(buffer.getvalue())


def _column(values: Any) -> Any:
    import pyarrow as pa

    return pa.array(values.tolist() if np.ndim(values) > 1 else values, from_pandas=True)


def read_scored(store: Store, digest: str) -> pa.Table:
    """The scored examples, verified. Raises ``NotFound`` or ``CorruptBytes``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(store.blobs.get(digest)))
