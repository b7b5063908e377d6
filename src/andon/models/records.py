"""What a model says of itself: its signature, and the manifest of ``model:NAME@VERSION``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from andon.core.errors import InvalidInput

Dtype = Literal[
    "double",
    "float",
    "half",
    "long",
    "integer",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "boolean",
    "string",
    "datetime",
]
"""``double``, ``float`` and ``half`` are floats of 64, 32 and 16 bits; ``long`` and ``integer`` whole numbers of 64 and 32 bits, the others
say their width; UTF-8 text; ISO 8601 text or microseconds since 1970 UTC."""

NUMPY_DTYPES: dict[Dtype, str] = {
    "double": "f8",
    "float": "f4",
    "half": "f2",
    "long": "i8",
    "integer": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "boolean": "?",
    "string": "O",
    "datetime": "M8[us]",
}
"""What a required column is in memory."""
MAX_RANK = 8

Format = Literal["onnx", "skops", "xgboost", "lightgbm", "torch", "safetensors", "python", "pickle", "mlflow", "ensemble", "cascade"]
"""``torch`` is a program that ``torch.export`` wrote, ``safetensors`` weights alone. ``mlflow``: a folder with an MLmodel file that none of
the others describes; see ``foreign``. ``ensemble`` and ``cascade``: several models as one; see ``composing``."""


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a model's input or output; ``required`` columns refuse null and absence.

    ``shape`` is the shape of one row's value: ``()`` for a scalar, ``(3, 224, 224)`` for an image, -1 for an axis of any length. A column
    with a shape is always required. Raises ``InvalidInput`` for a shape that is none.
    """

    name: str
    dtype: Dtype
    # A default made by a function is always written out and one that is a plain value is left out, so the JSON of a column without a
    # shape, and with it the digest of every manifest, is what it was before there were shapes.
    required: bool = msgspec.field(default_factory=lambda: True)
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.shape:
            if len(self.shape) > MAX_RANK or any(size < 1 and size != -1 for size in self.shape):
                why = f"a shape has at most {MAX_RANK} axes, each of 1 or more, or -1 for any length"
                raise InvalidInput(why, field=self.name, got=str(self.shape)[:80])
            if not self.required:
                raise InvalidInput("a column with a shape is always required", field=self.name)


CODE_FREE = "code-free"
"""A flag of an ensemble or cascade whose members are all ONNX: it may run where no code of anybody's may."""


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
    """``pickle`` when loading it runs code from the file; ``code-free`` for an ensemble or cascade of ONNX models."""
    facts: dict[str, Any] = {}
    """What else is to be known, such as how near the answers of what was saved are to the model's (``parity``). Shown, never acted on."""
    origin: str = ""
    """What the files were taken from, as an owner of artifacts and a path: ``logged-model:m-1`` or ``run:01J…/model``."""
