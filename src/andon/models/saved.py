"""What saving a model gives: files in a folder, and what the manifest will say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from andon.models.records import Column, Format, ModelManifest, Signature
from andon.models.signatures import column_of, columns_of, dtype_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model as files in ``folder``, and what its manifest will say."""

    folder: Path
    format: Format
    entry: str
    signature: Signature
    example: tuple[dict[str, Any], ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def manifest(self, files: str) -> ModelManifest:
        """The manifest, given the digest of the tree that ``folder`` was kept as."""
        return ModelManifest(
            format=self.format,
            files=files,
            entry=self.entry,
            signature=self.signature,
            example=self.example,
            libraries=self.libraries,
            flags=self.flags,
            facts=self.facts,
        )


def with_outputs(signature: Signature, outputs: Mapping[str, Any]) -> Signature:
    """The signature with the columns that a model gave for its example."""
    return Signature(signature.inputs, tuple(column_of(name, values) for name, values in columns_of(outputs).items()))


def columns_as_they_are(outputs: Mapping[str, Any]) -> tuple[Column, ...]:
    """Columns of the types that arrays have; ``[n, 1]`` is a column of single values."""
    return tuple(
        Column(name, dtype_of(values, name), shape=() if values.shape[1:] == (1,) else tuple(values.shape[1:]))
        for name, values in outputs.items()
    )


def same_alone(predict: Callable[[Mapping[str, Any], int], Mapping[str, Any]], columns: Mapping[str, Any]) -> str | None:
    """The output that a row's answer depends on its neighbours in, or None. ``predict`` takes columns and their length.

    The example's first row is answered alone, in the example, and beside itself. Requests are batched with strangers', so an answer that
    depends on them is no answer. Tolerance: 1e-4 relative, 1e-5 absolute (float32 sums in another order). Raises what ``predict`` raises,
    and ``ValueError`` for an output that has no value for each row.
    """
    import numpy as np

    alone = {name: values[:1] for name, values in columns.items()}
    first = predict(alone, 1)
    for batch in (columns, {name: np.concatenate([values, values]) for name, values in alone.items()}):
        n = len(next(iter(batch.values())))
        made = predict(batch, n)
        for name, values in made.items():
            if not values.shape or len(values) != n:
                raise ValueError(f"the output {name!r} has the shape {list(values.shape)} for {n} rows; it needs a value for each")
            one, other = first[name][:1], values[:1]
            if one.shape != other.shape:
                return name
            if one.dtype.kind in "fc":
                if not np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True):
                    return name
            elif not bool((one == other).all()):
                return name
    return None


def named_like(columns: Mapping[str, Column], told: Iterable[Column]) -> tuple[Column, ...]:
    """``told``, but with the type and shape that the model itself states where it states one by that name."""
    made = []
    for column in told:
        own = columns.get(column.name)
        fits = own is not None and (column.required or not own.shape)
        made.append(Column(column.name, own.dtype, column.required, own.shape) if own is not None and fits else column)
    return tuple(made)


def versions(names: Iterable[str]) -> dict[str, str]:
    """The installed versions of distributions, as far as they say them."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # installed in a way that leaves no metadata
            continue
    return dict(sorted(found.items()))
