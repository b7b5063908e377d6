"""Values between steps, as small JSON with large parts by digest. One form serves as digest of inputs, cache and lineage.

======================================  =============================================
value                                   form
======================================  =============================================
None, bool, int, str, finite float      itself
other float                             ``{"float": "nan"}``
list, tuple, dict with text keys        ``{"list": […]}``, ``{"tuple": […]}``, ``{"dict": {…}}``
bytes, NumPy, Arrow, pandas             ``{"as": KIND, "blob": DIGEST}``
scikit-learn estimators                 ``{"as": "skops", "blob": DIGEST}``
dataset handles, registry versions      ``{"as": "dataset", "address": …, "digest": …}``
======================================  =============================================

Anything else is opaque: it can be passed on within a run, but a step that takes or returns it is not cached.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from andon.core.addresses import Address
from andon.core.errors import Gone
from andon.datasets import Dataset, DatasetManifest
from andon.models.estimators import is_estimator
from andon.models.loading import load_skops, refused_types
from andon.registry import Version, get, manifest_of
from andon.store import Store

Put = Callable[[bytes], str]


class OpaqueError(Exception):
    """This value has no form that can be kept; the message names its type."""


def encode(value: Any, put: Put, known: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The form of ``value``; ``put`` keeps (or only digests) large parts and returns their digest.

    ``known`` (``id -> (value, form)``) gives the form of what cannot be digested twice alike: estimators, whose files hold times.
    Raises ``OpaqueError``.

    >>> encode((1, [2.5, None]), put=lambda data: "")
    {'tuple': [1, {'list': [2.5, None]}]}
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return {"list": [encode(item, put, known) for item in value]}
    if kind is tuple:
        return {"tuple": [encode(item, put, known) for item in value]}
    if kind is dict:
        if not all(type(key) is str for key in value):
            raise OpaqueError("a dict whose keys are not text")
        return {"dict": {key: encode(item, put, known) for key, item in value.items()}}
    if known is not None and id(value) in known:
        return known[id(value)][1]
    return _encode_large(value, put)


def _encode_large(value: Any, put: Put) -> Any:
    numpy, arrow, pandas = (sys.modules.get(name) for name in ("numpy", "pyarrow", "pandas"))
    if isinstance(value, bytes):
        return {"as": "bytes", "blob": put(value)}
    if isinstance(value, Dataset):
        return {"as": "dataset", "address": str(value.address), "digest": value.digest}
    if isinstance(value, Version):
        return {"as": "version", "address": str(value.address), "digest": value.digest}
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind not in "OV":
        kept = io.BytesIO()
        numpy.save(kept, numpy.ascontiguousarray(value) if value.ndim else value, allow_pickle=False)
        return {"as": "numpy" if isinstance(value, numpy.ndarray) else "scalar", "blob": put(kept.getvalue())}
    if arrow is not None and isinstance(value, arrow.Table):
        return {"as": "arrow", "blob": put(_ipc(value))}
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return {"as": "pandas", "blob": put(_ipc(_from_pandas(value)))}
    if is_estimator(value):
        return {"as": "skops", "blob": put(_skops(value))}
    raise OpaqueError(f"{type(value).__module__}.{type(value).__qualname__}")


def decode(form: Any, store: Store) -> Any:
    """The value of a form. Raises ``NotFound``, ``Gone`` or ``CorruptBytes`` when a part is no longer there."""
    if not isinstance(form, dict):
        return form
    if "list" in form:
        return [decode(item, store) for item in form["list"]]
    if "tuple" in form:
        return tuple(decode(item, store) for item in form["tuple"])
    if "dict" in form:
        return {key: decode(item, store) for key, item in form["dict"].items()}
    if "float" in form:
        return float(form["float"])
    if "address" in form:
        return _decode_address(form, store)
    return _decode_blob(form["as"], store.blobs.get(form["blob"]))


def _decode_address(form: Any, store: Store) -> Any:
    version = get(store, Address.parse(form["address"]))
    if version.digest != form["digest"]:
        raise Gone("this version is not what it was", address=form["address"])
    if form["as"] == "version":
        return version
    return Dataset(store, version.address, version.digest, manifest_of(version, DatasetManifest))


def _decode_blob(kind: str, data: bytes) -> Any:
    if kind == "bytes":
        return data
    if kind in ("numpy", "scalar"):
        import numpy as np

        array = np.load(io.BytesIO(data), allow_pickle=False)
        return array if kind == "numpy" else array[()]
    if kind == "skops":
        with tempfile.TemporaryDirectory(prefix="andon-step-") as scratch:
            path = Path(scratch, "value.skops")
            path.write_bytes(data)
            return load_skops(path)
    import pyarrow as pa

    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return table.to_pandas() if kind == "pandas" else table


def blobs_in(form: Any) -> set[str]:
    """Digests of the parts that a form needs."""
    if not isinstance(form, dict):
        return set()
    if "blob" in form:
        return {form["blob"]}
    parts = form.get("list") or form.get("tuple") or list((form.get("dict") or {}).values())
    found: set[str] = set()
    return found.union(*(blobs_in(part) for part in parts)) if parts else found


def _ipc(table: Any) -> bytes:
    import pyarrow as pa

    kept = io.BytesIO()
    with pa.ipc.new_file(kept, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return kept.getvalue()


def _from_pandas(frame: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.Table.from_pandas(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise OpaqueError(f"a frame with a column of mixed types: {error}") from None


def _skops(estimator: Any) -> bytes:
    try:
        import skops.io
    except ModuleNotFoundError:
        raise OpaqueError("an estimator, and skops is not installed") from None
    with tempfile.TemporaryDirectory(prefix="andon-step-") as scratch:
        path = Path(scratch, "value.skops")
        try:
            skops.io.dump(estimator, path)
            refused = refused_types(path)
        except Exception as error:  # noqa: BLE001 - whatever skops cannot write is opaque to us
            raise OpaqueError(f"{type(estimator).__qualname__}: {error}") from None
        if refused:
            raise OpaqueError(f"an estimator that holds {refused[0]}")
        return path.read_bytes()
