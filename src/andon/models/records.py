"""What a model says of itself: its signature, and the manifest of ``model:NAME@VERSION``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Dtype = Literal["double", "long", "boolean", "string", "datetime"]
"""float64, int64, bool, UTF-8 text, and ISO 8601 text or microseconds since 1970 UTC."""

Format = Literal["onnx", "skops", "safetensors", "python", "pickle", "mlflow"]
"""``mlflow``: a folder with an MLmodel file that none of the others describes; see ``foreign``."""


class Column(msgspec.Struct, frozen=True):
    """One column of a model's input or output; ``required`` columns refuse null and absence."""

    name: str
    dtype: Dtype
    required: bool = True


class Signature(msgspec.Struct, frozen=True):
    """The columns that go in and come out, in order."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of a model version. Everything needed to load it, by digest."""

    format: Format
    files: str | None
    """Digest of the tree that holds the model's files; None when a client registered it and its files were not here."""
    entry: str
    """The file in the tree to load (``model.onnx``), or for ``python`` the class, ``module:Class``."""
    signature: Signature
    example: tuple[dict[str, Any], ...] = ()
    """A few input rows, as JSON; used to warm up and to check a load."""
    libraries: dict[str, str] = {}
    """What it was made with, such as ``{"scikit-learn": "1.9.1"}``."""
    flags: tuple[str, ...] = ()
    """``pickle`` when loading it runs code from the file."""
    facts: dict[str, Any] = {}
    """What else the maker wants known; never read by Andon."""
    origin: str = ""
    """What the files were taken from, as an owner of artifacts and a path: ``logged-model:m-1`` or ``run:01J…/model``."""
