"""Saving a model as files that can be loaded without trusting them, and as a manifest that says how.

Formats, in order of preference: ONNX (scikit-learn when it converts with equal predictions; also ready-made graphs), skops (scikit-learn
otherwise), xgboost and lightgbm (their own formats), torch (an exported program), safetensors (weights), python (a folder of your code and
a class), and pickle only when asked for by name.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.models import staging
from andon.models.estimators import answer, is_estimator
from andon.models.records import Format, Signature
from andon.models.saved import SavedModel, versions, with_outputs
from andon.models.saving_boosters import library_of, save_booster
from andon.models.saving_graphs import is_graph, save_graph
from andon.models.saving_programs import is_program, save_program
from andon.models.signatures import columns_of, infer_signature, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

FILES: dict[Format, str] = {"onnx": "model.onnx", "skops": "model.skops", "safetensors": "model.safetensors", "pickle": "model.pkl"}


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

    ``model`` is a fitted scikit-learn estimator, an XGBoost or LightGBM model, an ONNX graph (a ``ModelProto``, its bytes, or a path ending
    in ``.onnx``), a program that ``torch.export`` made (or a path ending in ``.pt2``), a torch module (its weights only, unless
    ``format="torch"``, which exports it), a mapping of tensors (weights only), or a folder of Python with ``entry="module:Class"``.

    ``example`` holds a few input rows (see ``signatures``); it gives the signature unless ``signature`` is passed, and what was converted
    or exported must answer it, and recombinations of its columns, as the model does (1e-6 relative, a torch program 1e-4; labels equal). A
    column is required unless the example holds a null in it or it is named in ``optional``.

    Raises ``InvalidInput`` naming the field that is wrong, also when no format can hold this model safely; the folder is empty then.
    """
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise InvalidInput("the folder to save into is not empty", field="into", got=into)
    try:
        return _save(model, example, into, format, entry, signature, optional)
    except BaseException:  # whatever went wrong, also Ctrl-C, nothing half-saved is left behind
        for path in into.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _save(
    model: Any,
    example: Any,
    into: Path,
    format: Format | None,  # noqa: A002 - the field's own word
    entry: str | None,
    signature: Signature | None,
    optional: Collection[str],
) -> SavedModel:
    chosen = format or _natural_format(model, entry)
    if chosen == "python":
        return _save_python(model, example, into, entry, signature, optional)
    if chosen == "safetensors":
        return _save_tensors(model, example, into, signature, optional)
    if chosen == "torch":
        return save_program(model, example, into, signature, optional)
    library = library_of(model)
    if library is not None and chosen != "pickle":
        if chosen != library:
            raise InvalidInput(f"this model is kept in its own format, {library}", field="format", got=str(chosen)[:40])
        return save_booster(model, library, example, into, signature, optional)
    if chosen == "onnx" and not is_estimator(model):
        return save_graph(model, example, into, signature, optional)
    if chosen not in ("onnx", "skops", "pickle"):
        known = "onnx, skops, xgboost, lightgbm, torch, safetensors, python, pickle"
        raise InvalidInput(f"this model has another format; the formats are {known}", field="format", got=str(chosen)[:40])
    return _save_fitted(model, example, into, chosen, signature, optional, asked=format is not None)


def _natural_format(model: Any, entry: str | None) -> Format:
    if entry is not None:
        return "python"
    library = library_of(model)
    if library is not None:
        return library
    if is_estimator(model) or is_graph(model):
        return "onnx"
    if is_program(model):
        return "torch"
    if _tensors(model) is not None:
        return "safetensors"
    raise InvalidInput(
        "this is not a model that can be saved safely as it is",
        field="model",
        got=f"{type(model).__module__}.{type(model).__qualname__}",
        next_step="pass a scikit-learn estimator, an XGBoost or LightGBM model, an ONNX graph, a torch module with "
        'format="torch", a mapping of tensors, or a folder with entry="module:Class"; '
        'format="pickle" saves anything, and is flagged',
    )


def _save_fitted(
    model: Any, example: Any, into: Path, chosen: Format, signature: Signature | None, optional: Collection[str], *, asked: bool
) -> SavedModel:
    if example is None:
        raise InvalidInput("saving this model needs an example: a few input rows", field="example")
    columns = columns_of(example, names=_names(model, example))
    tensor = next((name for name, values in columns.items() if values.ndim > 1), None) if is_estimator(model) else None
    if tensor is not None:
        raise InvalidInput("scikit-learn takes one value a column; give each number a column of its own", field=tensor)
    if signature is None:
        signature = infer_signature(columns, optional=optional)
    outputs = _answer(model, columns) if chosen != "pickle" or is_estimator(model) else _own_answer(model, columns)
    signature = signature if signature.outputs else with_outputs(signature, outputs)
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
        libraries=versions(libraries),
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
        libraries=versions(libraries),
        facts=facts,
    )


def _save_python(
    model: Any, example: Any, into: Path, entry: str | None, signature: Signature | None, optional: Collection[str]
) -> SavedModel:
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
            signature = with_outputs(signature, columns_of(_code_answer(into, f"{module}:{name}", columns)))
    if signature is None:
        raise InvalidInput("a python model needs an example or a signature", field="example")
    return SavedModel(
        folder=into, format="python", entry=f"{module}:{name}", signature=signature, example=rows, libraries=versions(["numpy"])
    )


def _code_answer(folder: Path, entry: str, columns: Columns) -> Any:
    """What a folder's class says of its example: a mapping of columns, or an array, which is called ``prediction``."""
    from andon.models.loading import load_class

    try:
        made = staging.answer(staging.make(load_class(folder, entry), folder), columns)
    except Exception as error:  # whatever the caller's code says of the example is the caller's to read
        where = f"{staging.stage_of(error)} failed: " if staging.stage_of(error) else ""
        said = f"{where}{type(error).__name__}: {str(error)[:300]}"
        raise InvalidInput(f"the model refuses the example: {said}", field="example") from error
    return made if isinstance(made, Mapping) else {"prediction": made}


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


def _names(model: Any, example: Any) -> list[str] | None:
    """An estimator fitted on a frame knows its columns' names; they name those of an array example."""
    known = getattr(model, "feature_names_in_", None)
    width = getattr(example, "shape", (0, 0))
    return [str(name) for name in known] if known is not None and len(width) == 2 and len(known) == width[1] else None


def _tensors(model: Any) -> Mapping[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return dict(model.state_dict())
    if isinstance(model, Mapping) and model and all(isinstance(name, str) and hasattr(value, "shape") for name, value in model.items()):
        return model
    return None
