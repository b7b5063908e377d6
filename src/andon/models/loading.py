"""Loading a model from its files. Nothing is unpickled unless the caller says ``allow_pickle=True``.

ONNX, boosters' own formats and safetensors hold no code; a torch program is checked to hold none. A skops file names types; only
scikit-learn's, SciPy's and NumPy's own classes are let in. A python model is code that its author registered: loading it runs that code,
which is why serving does so in a child process.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from andon.core.errors import AndonError, Forbidden, Incompatible, InvalidInput, LoadFailed, ModelFailed
from andon.models import combining, staging
from andon.models.estimators import answer
from andon.models.records import Column, ModelManifest, Signature
from andon.models.signatures import columns_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]


class Predictor(Protocol):
    """A loaded model: columns in, columns out (equal lengths), as its signature says."""

    @property
    def signature(self) -> Signature:
        """The columns it takes and gives."""
        ...

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        """Answer a batch. Raises ``InvalidInput`` naming a column that is missing or wrong, ``ModelFailed`` when the model raises."""
        ...


def load(manifest: ModelManifest, files_dir: Path, *, allow_pickle: bool = False) -> Predictor:
    """A predictor from a manifest and the folder that its ``files`` tree was laid out in.

    Raises ``Forbidden`` for a pickle not asked for by name, ``LoadFailed`` when the files cannot be loaded here.
    """
    if manifest.format == "pickle" and not allow_pickle:
        raise Forbidden(
            "this model is a pickle: loading it runs code from the file",
            next_step="pass allow_pickle=True if you trust whoever made it; better, save it again without format='pickle'",
        )
    if "pickle" in manifest.flags and not allow_pickle:
        raise Forbidden(
            "loading this model runs code from its files",
            flavors=", ".join(manifest.facts.get("flavors", ())),
            next_step="pass allow_pickle=True if you trust whoever made it; better, log it as ONNX or skops",
        )
    try:
        return _load(manifest, files_dir)
    except AndonError:
        raise
    except Exception as error:  # a model's file or code may raise anything
        raise LoadFailed(
            f"the model could not be loaded: {type(error).__name__}: {str(error)[:300]}",
            format=manifest.format,
            made_with=", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
        ) from error


def _load(manifest: ModelManifest, files_dir: Path) -> Predictor:
    if manifest.format == "python":
        return _CodePredictor(manifest.signature, staging.make(load_class(files_dir, manifest.entry), files_dir))
    if manifest.format in ("ensemble", "cascade"):
        return _ComposedPredictor(manifest.signature, combining.load(files_dir, _load_member))
    file = files_dir / manifest.entry
    if not file.is_file() or not file.resolve().is_relative_to(files_dir.resolve()):
        raise LoadFailed("the model's file is missing", entry=manifest.entry)
    if manifest.format == "mlflow":
        from andon.models.foreign_loading import load_foreign

        return load_foreign(manifest, files_dir)
    if manifest.format == "onnx":
        from andon.models.conversion import open_session

        return _GraphPredictor(manifest.signature, open_session(str(file)))
    if manifest.format == "skops":
        return _EstimatorPredictor(manifest.signature, load_skops(file))
    if manifest.format in _NATIVE:
        module = importlib.import_module(_NATIVE[manifest.format])
        return _NativePredictor(manifest.signature, module.load(_spec(manifest, files_dir)))
    if manifest.format == "safetensors":
        return Weights(manifest.signature, _load_tensors(file))
    with file.open("rb") as stream:
        model = pickle.load(stream)  # noqa: S301 - asked for by name: see `load`
    from andon.models.estimators import is_estimator

    return _EstimatorPredictor(manifest.signature, model) if is_estimator(model) else _CodePredictor(manifest.signature, model)


@dataclass(frozen=True, slots=True)
class _GraphPredictor:
    signature: Signature
    session: Any

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        from andon.models.conversion import feeds, run_session

        order = [column.name for column in self.signature.inputs]
        feeds(self.session, columns, order=order)  # the caller's columns are at fault before the model is
        try:
            return _named(self.signature, run_session(self.session, columns, order=order))
        except Exception as error:  # the runtime raises types of its own
            raise ModelFailed(f"the graph raised: {str(error)[:300]}") from error


_NATIVE = {"xgboost": "andon.models.boosters", "lightgbm": "andon.models.boosters", "torch": "andon.models.programs"}


def _spec(manifest: ModelManifest, folder: Path) -> dict[str, Any]:
    """The manifest as serving's runner program is given it."""
    signature = manifest.signature
    return {
        "format": manifest.format,
        "path": str(folder),
        "entry": manifest.entry,
        "inputs": [(column.name, column.dtype) for column in signature.inputs],
        "outputs": [(column.name, column.dtype) for column in signature.outputs],
        "tensors": [column.name for column in signature.outputs if column.shape],
    }


@dataclass(frozen=True, slots=True)
class _NativePredictor:
    """What runs in its library's own format, by the very function that serving runs."""

    signature: Signature
    run: Callable[[Mapping[str, Any], int], Columns]

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        given = _ordered(self.signature, columns)
        try:
            return _named(self.signature, columns_of(self.run(given, len(next(iter(given.values()))))))
        except Exception as error:  # a library may raise anything
            raise ModelFailed(f"{type(error).__name__}: {str(error)[:300]}") from error


@dataclass(frozen=True, slots=True)
class _EstimatorPredictor:
    signature: Signature
    estimator: Any

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        given = _ordered(self.signature, columns)
        try:
            return _named(self.signature, columns_of(answer(self.estimator, given)))
        except Exception as error:  # an estimator may raise anything
            raise ModelFailed(f"{type(error).__name__}: {str(error)[:300]}") from error


@dataclass(frozen=True, slots=True)
class _CodePredictor:
    signature: Signature
    model: Any

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        given = _ordered(self.signature, columns)
        try:
            made = staging.answer(self.model, given)
            return _named(self.signature, columns_of(made if isinstance(made, Mapping) else {"prediction": made}))
        except Exception as error:  # the model is the user's code
            stage = staging.stage_of(error)
            raise ModelFailed(f"{f'{stage} failed: ' if stage else ''}{type(error).__name__}: {str(error)[:300]}") from error


@dataclass(frozen=True, slots=True)
class _ComposedPredictor:
    signature: Signature
    answer: combining.Predict

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        given = _ordered(self.signature, columns)
        try:
            return _named(self.signature, columns_of(self.answer(given, len(next(iter(given.values()))))))
        except AndonError:
            raise
        except Exception as error:  # a member may raise anything
            raise ModelFailed(f"{type(error).__name__}: {str(error)[:300]}") from error


def _load_member(spec: dict[str, Any]) -> combining.Predict:
    signature = Signature(tuple(Column(*pair) for pair in spec["inputs"]), tuple(Column(*pair) for pair in spec["outputs"]))
    manifest = ModelManifest(format=spec["format"], files=None, entry=spec["entry"], signature=signature, flags=tuple(spec["flags"]))
    predictor = _load(manifest, Path(spec["path"]))
    return lambda columns, n: predictor.predict(columns)  # noqa: ARG005 - what a member is called with


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors without the code that runs them: ``tensors`` is the mapping that was saved (NumPy, or torch when that is installed)."""

    signature: Signature
    tensors: Mapping[str, Any]

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:  # noqa: ARG002 - a Predictor's signature
        """Always raises ``Incompatible``: there is no code here."""
        raise Incompatible(
            "these are weights only; they cannot predict", next_step='save a folder with the code and the weights, entry="module:Class"'
        )


def _named(signature: Signature, outputs: Columns) -> Columns:
    """Outputs under the names of the signature: by name where it knows them, else by position, exactly as serving does."""
    wanted = [column.name for column in signature.outputs]
    if not wanted or set(wanted) <= outputs.keys():
        return outputs
    return dict(zip(wanted, outputs.values(), strict=False))


def _ordered(signature: Signature, columns: Mapping[str, NDArray[Any]]) -> Columns:
    ordered: Columns = {}
    for column in signature.inputs:
        if column.name not in columns:
            raise InvalidInput("a column that the model takes is missing", field=column.name)
        ordered[column.name] = columns[column.name]
    return ordered


def load_skops(file: Path) -> Any:
    """The estimator in a skops file. Raises ``Forbidden`` naming the types that are not let in."""
    import skops.io

    refused = refused_types(file)
    if refused:
        raise Forbidden("this skops file holds types that are not let in", types=", ".join(refused[:5]))
    return skops.io.load(file, trusted=sorted(skops.io.get_untrusted_types(file=file)))


def refused_types(file: Path) -> list[str]:
    """Types in a skops file that are neither skops' own choice nor a class or ufunc of scikit-learn, SciPy or NumPy."""
    import skops.io

    return sorted(name for name in skops.io.get_untrusted_types(file=file) if not _is_known_class(name))


# What scikit-learn's own histogram boosters keep when some features are categorical; a partial holds only what is let in itself.
_KNOWN_FUNCTIONS = frozenset({"functools.partial", "sklearn.utils.validation.check_array"})


def _is_known_class(name: str) -> bool:
    """Functions are not let in (NumPy has some that run commands), nor classes that a known package merely imported, nor file openers."""
    import numpy as np

    if name in _KNOWN_FUNCTIONS:
        return True
    module_name, _, attribute = name.rpartition(".")
    package = module_name.split(".")[0]
    if package not in ("sklearn", "scipy", "numpy") or "test" in module_name:
        return False
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError):
        return False
    if isinstance(found, np.ufunc):
        return True
    if not isinstance(found, type) or found.__module__.split(".")[0] != package:
        return False
    return (
        package != "numpy" or found is np.ndarray or issubclass(found, np.generic | np.dtype) or found.__module__.startswith("numpy.random")
    )


def _load_tensors(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError

    try:
        from safetensors.numpy import load_file

        return dict(load_file(file))
    except (SafetensorError, TypeError, KeyError):  # bfloat16 and float8 have no NumPy type
        from safetensors.torch import load_file as load_torch

        return dict(load_torch(file))


def load_class(folder: Path, entry: str) -> Any:
    """The class ``module:Class`` from a folder of code, imported afresh, so that two versions of one module do not meet in a process.

    The folder is on ``sys.path`` only while it imports: code that imports its siblings later, inside functions, needs a process of its own
    (as serving gives it).
    """
    module_name, _, class_name = entry.partition(":")
    before = {name for name, module in sys.modules.items() if module is not None}
    shadowed = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == module_name.split(".")[0]}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder's digest must not change by being used
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, class_name, None)
        if found is None:
            raise LoadFailed("the module has no such class", entry=entry)
        if not Path(getattr(module, "__file__", None) or "/").resolve().is_relative_to(folder.resolve()):
            raise LoadFailed("this module is not in the model's folder", entry=entry)
        return found
    finally:
        sys.dont_write_bytecode = writing
        sys.path.remove(str(folder))
        for name in [name for name, module in sys.modules.items() if name not in before and _is_inside(module, folder)]:
            del sys.modules[name]
        sys.modules.update(shadowed)


def _is_inside(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().is_relative_to(folder.resolve())
