"""Models that another tracking client saved: a folder with an ``MLmodel`` file, described without running any of it.

Where the file says that the weights are ONNX or skops, the manifest says so too, and such a model loads and serves like any other. What
is left has the format ``mlflow``: gradient boosters in their own format load here without their client; everything else is code of its
maker, flagged ``pickle``, and needs the client (``mlflow``) to load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from andon.core.errors import InvalidInput
from andon.models.records import MAX_RANK, Column, Dtype, Format, ModelManifest, Signature
from andon.models.signatures import EXAMPLE_ROWS, MAX_COLUMNS
from andon.store import schema as s
from andon.store.ports import Blobs

ENTRY = "MLmodel"
MAX_FILE_BYTES = 4_000_000
_PIN = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([A-Za-z0-9][A-Za-z0-9.+!_-]*)\s*(?:;.*|#.*)?")
_TYPES: dict[str, Dtype] = {
    "double": "double",
    "float": "double",
    "long": "long",
    "integer": "long",
    "boolean": "boolean",
    "string": "string",
    "datetime": "datetime",
}
_XGBOOST = re.compile(r"xgboost\.(core\.Booster|sklearn\.XGB[A-Za-z]*)")
_BOOSTER_FORMATS = ("ubj", "json", "deprecated", "xgb")


def files_at_in(connection: Connection, origin: str) -> dict[str, str]:
    """Path -> digest of the files at an origin, such as ``run:01J…/model``; paths are below it. Empty when nothing is there (yet)."""
    owner, _, folder = origin.partition("/")
    prefix = f"{folder}/" if folder else ""
    at = s.artifacts.c
    query = select(at.path, at.digest).where(at.owner == owner)
    if prefix:
        query = query.where(at.path.startswith(prefix, autoescape=True))
    # Looked at again: how an engine's LIKE takes letters is its own affair.
    return {row.path.removeprefix(prefix): row.digest for row in connection.execute(query.order_by(at.path)) if row.path.startswith(prefix)}


def describe_foreign(blobs: Blobs, files: Mapping[str, str], *, origin: str, facts: Mapping[str, Any] | None = None) -> ModelManifest:
    """The manifest of a saved folder, given its files as path -> digest; nothing is loaded, no bytes are copied.

    Without an ``MLmodel`` file among them (none yet, or stored elsewhere) the manifest has no ``files``, and says so when it is loaded.
    Raises ``InvalidInput`` when that file is not what it should be.
    """
    known = dict(facts or {})
    if ENTRY not in files:
        return ModelManifest(format="mlflow", files=None, entry=ENTRY, signature=Signature((), ()), facts=known, origin=origin)
    described = _yaml(_small(blobs, files, ENTRY), ENTRY)
    flavors = _mapping(described.get("flavors"))
    format_, entry, flags = _how_to_load(flavors, files)
    signature = read_signature(described.get("signature"))
    function = _mapping(flavors.get("python_function"))
    known |= {
        "flavors": sorted(str(name) for name in flavors),
        "loader": _text(function.get("loader_module")),
        "python": _text(function.get("python_version")),
        "mlflow": _text(described.get("mlflow_version")),
    }
    return ModelManifest(
        format=format_,
        files=blobs.put_tree_of(files),
        entry=entry,
        signature=signature,
        example=_example(blobs, files, _mapping(described.get("saved_input_example_info")), signature),
        libraries=_libraries(blobs, files),
        flags=flags,
        facts={key: value for key, value in known.items() if value},
        origin=origin,
    )


def read_signature(told: Any) -> Signature:
    """An MLmodel's signature as columns; a nameless tensor ``[-1, k]`` is columns ``x0`` to ``xk``, any other one column with a shape.

    What columns cannot say, such as a fixed number of rows, is left empty.
    """
    told = _mapping(told)
    inputs, outputs = _columns(told.get("inputs"), "x"), _columns(told.get("outputs"), "prediction")
    if inputs and not outputs:
        outputs = (Column("prediction", "double"),)
    return Signature(inputs, outputs)


def _columns(told: Any, unnamed: str) -> tuple[Column, ...]:
    try:
        specs = msgspec.json.decode(told, type=list[dict[str, Any]]) if isinstance(told, str) else []
    except msgspec.MsgspecError:
        return ()
    columns: list[Column] = []
    for at, spec in enumerate(specs):
        name = spec.get("name")
        made = _tensor(spec, name, unnamed) if spec.get("type") == "tensor" else _scalar(spec, name, unnamed, at, len(specs))
        if not made:
            return ()
        columns += made
    distinct = len({column.name for column in columns}) == len(columns)
    return tuple(columns) if distinct and len(columns) <= MAX_COLUMNS else ()


def _scalar(spec: dict[str, Any], name: Any, unnamed: str, at: int, count: int) -> list[Column]:
    dtype = _TYPES.get(str(spec.get("type")))
    if dtype is None:
        return []
    given = str(name) if name is not None else unnamed if unnamed == "prediction" and count == 1 else _numbered(unnamed, at)
    return [Column(given, dtype, required=spec.get("required", True) is not False)]


def _tensor(spec: dict[str, Any], name: Any, unnamed: str) -> list[Column]:
    inner = _mapping(spec.get("tensor-spec"))
    shape, dtype = inner.get("shape"), _tensor_dtype(str(inner.get("dtype")))
    if not isinstance(shape, list) or dtype is None or not all(isinstance(size, int) for size in shape):
        return []
    given = str(name) if name is not None else unnamed if unnamed == "prediction" else "x0"
    if len(shape) == 1 or shape[1:] == [1]:
        return [Column(given, dtype)]
    if len(shape) != 2 or name is not None or shape[1] == -1:
        exact = _EXACT.get(str(inner.get("dtype")))
        fits = shape[:1] == [-1] and len(shape) <= MAX_RANK + 1 and all(size == -1 or size > 0 for size in shape)
        return [Column(given, exact, shape=tuple(shape[1:]))] if exact is not None and fits else []
    if not 0 < shape[1] <= MAX_COLUMNS:
        return []
    return [Column(_numbered(unnamed if name is None else str(name), at), dtype) for at in range(shape[1])]


_EXACT: dict[str, Dtype] = {
    "float64": "double",
    "float32": "float",
    "float16": "half",
    "int64": "long",
    "int32": "integer",
    "int16": "int16",
    "int8": "int8",
    "uint64": "uint64",
    "uint32": "uint32",
    "uint16": "uint16",
    "uint8": "uint8",
    "bool": "boolean",
    "str": "string",
}


def _numbered(stem: str, at: int) -> str:
    return f"x{at}" if stem == "x" else f"{stem}_{at}"


def _tensor_dtype(name: str) -> Dtype | None:
    for start, dtype in (("float", "double"), ("int", "long"), ("uint", "long"), ("bool", "boolean"), ("str", "string")):
        if name.startswith(start):
            return dtype  # type: ignore[return-value]
    return None


def _how_to_load(flavors: dict[str, Any], files: Mapping[str, str]) -> tuple[Format, str, tuple[str, ...]]:
    """Format, entry and flags. Only what the client itself would load from that very file counts."""
    function = _mapping(flavors.get("python_function"))
    loader = str(function.get("loader_module") or "").removeprefix("mlflow.")
    flavor = _mapping(flavors.get(loader))
    plain = not function.get("code") and not flavor.get("code")
    if plain and loader == "onnx" and (file := _file(flavor.get("data"), files, ".onnx")):
        return "onnx", file, ()
    if plain and loader == "sklearn" and flavor.get("serialization_format") == "skops" and function.get("predict_fn") in (None, "predict"):
        file = _file(flavor.get("pickled_model"), files, ".skops")
        if file and not flavor.get("skops_trusted_types"):
            return "skops", file, ()
    if plain and booster_of(flavors, files) is not None:
        return "mlflow", ENTRY, ()
    return "mlflow", ENTRY, ("pickle",)


def booster_of(flavors: Mapping[str, Any], files: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Library, class and file of a gradient booster saved in its library's own format; None for anything else."""
    loader = str(_mapping(flavors.get("python_function")).get("loader_module") or "")
    if loader == "mlflow.xgboost":
        flavor = _mapping(flavors.get("xgboost"))
        kind, file = str(flavor.get("model_class") or "xgboost.core.Booster"), _file(flavor.get("data"), files)
        if file and _XGBOOST.fullmatch(kind) and flavor.get("model_format", "xgb") in _BOOSTER_FORMATS:
            return "xgboost", kind, file
    if loader == "mlflow.lightgbm":
        flavor = _mapping(flavors.get("lightgbm"))
        kind, file = str(flavor.get("model_class") or "lightgbm.basic.Booster"), _file(flavor.get("data"), files)
        if file and kind == "lightgbm.basic.Booster" and not file.endswith((".pkl", ".skops")):
            return "lightgbm", kind, file
    return None


def read_flavors(text: bytes) -> dict[str, Any]:
    """The flavors that an MLmodel file names. Raises ``InvalidInput``."""
    return _mapping(_yaml(text, ENTRY).get("flavors"))


def _file(told: Any, files: Mapping[str, str], suffix: str = "") -> str:
    """A path that the MLmodel file names, if it is one of the model's files."""
    path = str(PurePosixPath(told)) if isinstance(told, str) and told else ""
    return path if path in files and path.endswith(suffix) else ""


def _libraries(blobs: Blobs, files: Mapping[str, str]) -> dict[str, str]:
    """What is pinned: requirements.txt, else the pip part of conda.yaml, else the dependencies of python_env.yaml."""
    lines: list[Any] = []
    if "requirements.txt" in files:
        lines = _small(blobs, files, "requirements.txt").decode(errors="replace").splitlines()
    for name in ("conda.yaml", "python_env.yaml"):
        if not lines and name in files:
            listed = _yaml(_small(blobs, files, name), name).get("dependencies")
            lines = [item for line in (listed if isinstance(listed, list) else []) for item in _pip_part(line)]
    found = (_PIN.fullmatch(line) for line in lines if isinstance(line, str))
    return dict(sorted((match[1], match[2]) for match in found if match is not None))


def _pip_part(line: Any) -> list[Any]:
    if isinstance(line, dict):
        listed = line.get("pip")
        return listed if isinstance(listed, list) else []
    return [line]


def _example(blobs: Blobs, files: Mapping[str, str], told: dict[str, Any], signature: Signature) -> tuple[dict[str, Any], ...]:
    """The first rows of the saved input example, if it has the signature's columns; else none."""
    path = _file(told.get("artifact_path"), files, ".json")
    if not path or not signature.inputs or blobs.size_bytes(files[path]) > MAX_FILE_BYTES:
        return ()
    try:
        data = msgspec.json.decode(blobs.get(files[path]))
    except msgspec.MsgspecError:
        return ()
    names = [column.name for column in signature.inputs]
    if isinstance(data, dict) and isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):
        given, rows = [str(name) for name in data["columns"]], data["data"]
    elif isinstance(data, list) and all(isinstance(row, dict) for row in data):
        given, rows = names, [[row.get(name) for name in names] for row in data]
    else:
        given, rows = names, data if isinstance(data, list) else []
    rows = [row if isinstance(row, list) else [row] for row in rows[:EXAMPLE_ROWS]]
    if sorted(given) != sorted(names) or any(len(row) != len(given) or any(isinstance(v, list | dict) for v in row) for row in rows):
        return ()
    order = [given.index(name) for name in names]
    return tuple({name: row[at] for name, at in zip(names, order, strict=True)} for row in rows)


def _small(blobs: Blobs, files: Mapping[str, str], path: str) -> bytes:
    size = blobs.size_bytes(files[path])
    if size > MAX_FILE_BYTES:
        raise InvalidInput("this file is too large for what it should be", field=path, got=size, limit=MAX_FILE_BYTES)
    return blobs.get(files[path])


def _yaml(data: bytes, path: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped,unused-ignore]

    try:
        told = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader, in C where there is one
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput(f"this file is not YAML: {str(error)[:200]}", field=path) from None
    return _mapping(told)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return str(value)[:200] if isinstance(value, str | int | float) else ""
