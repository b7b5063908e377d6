"""Saving a model as files that can be loaded without trusting them, and as a manifest that says how.

Formats, in order of preference: ONNX (scikit-learn when it converts with equal predictions; also ready-made graphs), skops (scikit-learn
otherwise), safetensors (weights), python (a folder of your code and a class), and pickle only when asked for by name.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.models.estimators import answer, is_estimator
from andon.models.records import Column, Dtype, Format, ModelManifest, Signature
from andon.models.signatures import columns_of, dtype_of, infer_signature, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

FILES: dict[Format, str] = {"onnx": "model.onnx", "skops": "model.skops", "safetensors": "model.safetensors", "pickle": "model.pkl"}
_ONNX_DTYPES: dict[str, Dtype] = {
    "tensor(double)": "double",
    "tensor(float)": "double",
    "tensor(int64)": "long",
    "tensor(int32)": "long",
    "tensor(bool)": "boolean",
    "tensor(string)": "string",
}


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


def save(
    model: Any,
    example: Any = None,
    *,
    into: Path,
    format: Format | None = None,  # noqa: A002 - the field's own word
    entry: str | None = None,
    signature: Signature | None = None,
    optional: Collection[str] = (),
) -> SavedModel:
    """Write ``model`` into the folder ``into`` (made if missing; must be empty).

    ``model`` is a fitted scikit-learn estimator, an ONNX graph (a ``ModelProto``, its bytes, or a path ending in ``.onnx``), a mapping of
    tensors or a torch module (weights only), or a folder of Python with ``entry="module:Class"``. ``example`` holds a few input rows
    (see ``signatures``); it gives the signature unless ``signature`` is passed, and parity of a conversion is checked on it and on
    recombinations of its columns (1e-6 relative; labels equal). A column is required unless the example holds a null in it or it is
    named in ``optional``.

    Raises ``InvalidInput`` naming the field that is wrong, also when no format can hold this model safely.
    """
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise InvalidInput("the folder to save into is not empty", field="into", got=into)
    chosen = format or _natural_format(model, entry)
    if chosen == "python":
        return _save_python(model, example, into, entry, signature, optional)
    if chosen == "safetensors":
        return _save_tensors(model, example, into, signature, optional)
    if chosen == "onnx" and not is_estimator(model):
        return _save_graph(model, example, into, signature, optional)
    if chosen not in ("onnx", "skops", "pickle"):
        raise InvalidInput("a format is one of onnx, skops, safetensors, python, pickle", field="format", got=str(chosen)[:40])
    return _save_fitted(model, example, into, chosen, signature, optional, asked=format is not None)


def _natural_format(model: Any, entry: str | None) -> Format:
    if entry is not None:
        return "python"
    if is_estimator(model) or _is_graph(model):
        return "onnx"
    if _tensors(model) is not None:
        return "safetensors"
    raise InvalidInput(
        "this is not a model that can be saved safely as it is",
        field="model",
        got=f"{type(model).__module__}.{type(model).__qualname__}",
        next_step='pass a scikit-learn estimator, an ONNX graph, a mapping of tensors, or a folder with entry="module:Class"; '
        'format="pickle" saves anything, and is flagged',
    )


def _save_fitted(
    model: Any, example: Any, into: Path, chosen: Format, signature: Signature | None, optional: Collection[str], *, asked: bool
) -> SavedModel:
    if example is None:
        raise InvalidInput("saving this model needs an example: a few input rows", field="example")
    columns = columns_of(example, names=_names(model, example))
    if signature is None:
        signature = infer_signature(columns, optional=optional)
    outputs = _answer(model, columns) if chosen != "pickle" or is_estimator(model) else _own_answer(model, columns)
    signature = signature if signature.outputs else _with_outputs(signature, outputs)
    facts: dict[str, Any] = {"class": f"{type(model).__module__}.{type(model).__qualname__}"}
    flags: tuple[str, ...] = ()
    libraries = ["scikit-learn", "numpy"] if is_estimator(model) else ["numpy"]
    if chosen == "onnx":
        chosen, more = _try_onnx(model, columns, into, asked=asked)
        facts |= more
        libraries += ["skl2onnx", "onnx", "onnxruntime"] if chosen == "onnx" else []
    if chosen == "skops":
        _write_skops(model, into)
        libraries += ["skops", "scipy"]
    if chosen == "pickle":
        (into / FILES["pickle"]).write_bytes(pickle.dumps(model, protocol=5))
        flags = ("pickle",)
    return SavedModel(
        folder=into,
        format=chosen,
        entry=FILES[chosen],
        signature=signature,
        example=rows_of(columns),
        libraries=_versions(libraries),
        flags=flags,
        facts=facts,
    )


def _try_onnx(model: Any, columns: Columns, into: Path, *, asked: bool) -> tuple[Format, dict[str, Any]]:
    from andon.models.conversion import NotConvertibleError, to_onnx

    try:
        graph, facts = to_onnx(model, columns)
    except NotConvertibleError as error:
        if asked:
            raise InvalidInput(f"this model does not convert to ONNX with equal predictions: {error}", field="format") from None
        return "skops", {"not_onnx": str(error)[:500]}
    (into / FILES["onnx"]).write_bytes(graph)
    return "onnx", facts


def _write_skops(model: Any, into: Path) -> None:
    from andon.models.loading import refused_types

    try:
        import skops.io
    except ModuleNotFoundError:
        raise InvalidInput("saving this model needs skops", field="format", next_step='pip install "andon[serving]"') from None
    file = into / FILES["skops"]
    skops.io.dump(model, file)
    refused = refused_types(file)
    if refused:
        file.unlink()
        raise InvalidInput(
            "this model holds types that no format here loads safely",
            field="model",
            types=", ".join(refused[:5]),
            next_step='move your own code into a folder and save that with entry="module:Class", or say format="pickle"',
        )


def _save_graph(model: Any, example: Any, into: Path, signature: Signature | None, optional: Collection[str]) -> SavedModel:
    from andon.models.conversion import open_session, run_session

    graph = _graph_bytes(model)
    try:
        session = open_session(graph)
    except Exception as error:  # noqa: BLE001 - the runtime has a family of errors of its own; all mean that it cannot load this
        raise InvalidInput(f"ONNX Runtime cannot load this graph: {str(error)[:300]}", field="model") from None
    rows: tuple[dict[str, Any], ...] = ()
    if example is not None:
        columns = columns_of(example)
        rows = rows_of(columns)
        signature = signature or infer_signature(columns, optional=optional)
        if not signature.outputs:
            order = [column.name for column in signature.inputs]
            signature = _with_outputs(signature, run_session(session, columns, order=order))
    if signature is None:
        signature = Signature(_graph_columns(session.get_inputs()), _graph_columns(session.get_outputs()))
    (into / FILES["onnx"]).write_bytes(graph)
    return SavedModel(
        folder=into, format="onnx", entry=FILES["onnx"], signature=signature, example=rows, libraries=_versions(["onnxruntime"])
    )


def _save_tensors(model: Any, example: Any, into: Path, signature: Signature | None, optional: Collection[str]) -> SavedModel:
    found = _tensors(model)
    if found is None:
        raise InvalidInput("safetensors holds a mapping of names to tensors, or a torch module's weights", field="model")
    try:
        if found and type(next(iter(found.values()))).__module__.startswith("torch"):
            from safetensors.torch import save_file as save_torch

            save_torch({name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}, into / FILES["safetensors"])
            libraries = ["safetensors", "torch"]
        else:
            import numpy as np
            from safetensors.numpy import save_file

            save_file({name: np.ascontiguousarray(tensor) for name, tensor in found.items()}, into / FILES["safetensors"])
            libraries = ["safetensors", "numpy"]
    except ModuleNotFoundError:
        raise InvalidInput("saving tensors needs safetensors", field="format", next_step='pip install "andon[serving]"') from None
    columns = columns_of(example) if example is not None else {}
    signature = signature or (infer_signature(columns, optional=optional) if columns else Signature((), ()))
    facts = {"class": f"{type(model).__module__}.{type(model).__qualname__}", "tensors": len(found)}
    return SavedModel(
        folder=into,
        format="safetensors",
        entry=FILES["safetensors"],
        signature=signature,
        example=rows_of(columns),
        libraries=_versions(libraries),
        facts=facts,
    )


def _save_python(
    model: Any, example: Any, into: Path, entry: str | None, signature: Signature | None, optional: Collection[str]
) -> SavedModel:
    from andon.models.loading import load_class

    if not isinstance(model, str | Path) or not Path(model).is_dir():
        raise InvalidInput("a python model is a folder of code (and weights)", field="model", got=str(model)[:80])
    module, colon, name = (entry or "").partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise InvalidInput("a python model needs entry='module:Class'", field="entry", got=str(entry)[:80])
    shutil.copytree(
        model, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv", ".DS_Store"), symlinks=False
    )
    rows: tuple[dict[str, Any], ...] = ()
    if example is not None:
        columns = columns_of(example)
        rows = rows_of(columns)
        signature = signature or infer_signature(columns, optional=optional)
        if not signature.outputs:  # runs the caller's own code, in the caller's own process
            signature = _with_outputs(signature, columns_of(load_class(into, f"{module}:{name}")(into).predict(columns)))
    if signature is None:
        raise InvalidInput("a python model needs an example or a signature", field="example")
    return SavedModel(
        folder=into, format="python", entry=f"{module}:{name}", signature=signature, example=rows, libraries=_versions(["numpy"])
    )


def _answer(model: Any, columns: Columns) -> Columns:
    try:
        return columns_of(answer(model, columns))
    except InvalidInput:
        raise
    except Exception as error:  # whatever the estimator says of the example is the caller's to read
        raise InvalidInput(f"the model refuses the example: {type(error).__name__}: {str(error)[:300]}", field="example") from error


def _own_answer(model: Any, columns: Columns) -> Columns:
    """The outputs of a model that is not scikit-learn's: it must have ``predict(columns) -> columns``."""
    if not hasattr(model, "predict"):
        raise InvalidInput("a pickled model needs predict(columns) -> columns", field="model", got=type(model).__name__)
    made = model.predict(columns)
    return columns_of(made if isinstance(made, Mapping) else {"prediction": made})


def _with_outputs(signature: Signature, outputs: Columns) -> Signature:
    return Signature(signature.inputs, tuple(Column(name, dtype_of(values, name)) for name, values in columns_of(outputs).items()))


def _names(model: Any, example: Any) -> list[str] | None:
    """An estimator fitted on a frame knows its columns' names; they name those of an array example."""
    known = getattr(model, "feature_names_in_", None)
    width = getattr(example, "shape", (0, 0))
    return [str(name) for name in known] if known is not None and len(width) == 2 and len(known) == width[1] else None


def _is_graph(model: Any) -> bool:
    if isinstance(model, str | Path):
        return str(model).endswith(".onnx")
    return isinstance(model, bytes) or type(model).__name__ == "ModelProto"


def _graph_bytes(model: Any) -> bytes:
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise InvalidInput("there is no such file", field="model", got=path)
        return path.read_bytes()
    return model if isinstance(model, bytes) else bytes(model.SerializeToString())


def _graph_columns(values: Any) -> tuple[Column, ...]:
    columns = []
    for value in values:
        dtype = _ONNX_DTYPES.get(value.type)
        if dtype is None or (len(value.shape) == 2 and value.shape[1] != 1) or len(value.shape) > 2:
            raise InvalidInput("the columns of this graph cannot be told; pass an example or a signature", field=value.name, got=value.type)
        columns.append(Column(value.name, dtype))
    return tuple(columns)


def _tensors(model: Any) -> Mapping[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return dict(model.state_dict())
    if isinstance(model, Mapping) and model and all(isinstance(name, str) and hasattr(value, "shape") for name, value in model.items()):
        return model
    return None


def _versions(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # installed in a way that leaves no metadata
            continue
    return dict(sorted(found.items()))
