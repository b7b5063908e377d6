"""Loading what has the format ``mlflow``: boosters with their own library, the rest with the client that saved it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput, LoadFailed, ModelFailed
from andon.models.estimators import answer
from andon.models.foreign import ENTRY, booster_of, read_flavors
from andon.models.records import ModelManifest, Signature
from andon.models.signatures import columns_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]


def load_foreign(manifest: ModelManifest, folder: Path) -> ForeignPredictor:
    """A predictor of the folder of an MLmodel. Raises ``LoadFailed`` when a library is missing; whoever calls has asked about code."""
    flavors = read_flavors((folder / ENTRY).read_bytes())
    files = {path.relative_to(folder).as_posix(): "" for path in folder.rglob("*") if path.is_file()}
    booster = booster_of(flavors, files)
    if booster is not None:
        return ForeignPredictor(manifest.signature, _load_booster(*booster, folder=folder))
    try:
        pyfunc = importlib.import_module("mlflow.pyfunc")
    except ModuleNotFoundError:
        raise LoadFailed(
            "this model loads with the client that saved it, which is not installed here",
            made_with=", ".join(f"{name} {version}" for name, version in list(manifest.libraries.items())[:8]),
            next_step=f"pip install mlflow=={manifest.libraries.get('mlflow', '')}".removesuffix("=="),
        ) from None
    model = pyfunc.load_model(str(folder))
    return ForeignPredictor(manifest.signature, lambda columns: model.predict(client_input(model, columns)))


def _load_booster(library: str, kind: str, file: str, *, folder: Path) -> Any:
    """A function from columns to an array (or columns)."""
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError:
        raise LoadFailed(f"loading this model needs {library}", next_step=f"pip install {library}") from None
    path = str(folder / file)
    if library == "lightgbm":
        booster = module.Booster(model_file=path)
        return lambda columns: booster.predict(_side_by_side(columns))
    name = kind.rpartition(".")[2]
    model = getattr(module, name)()
    model.load_model(path)
    if name != "Booster":
        return lambda columns: answer(model, columns)
    return lambda columns: model.predict(module.DMatrix(_side_by_side(columns), feature_names=model.feature_names))


def _side_by_side(columns: Columns) -> Any:
    import numpy as np

    return np.column_stack([values.astype(np.float64, copy=False) for values in columns.values()])


def client_input(model: Any, columns: Mapping[str, NDArray[Any]]) -> Any:
    """Columns as the client's own check of its signature takes them: a frame of its exact types, or one array for one tensor."""
    schema = getattr(getattr(model.metadata, "signature", None), "inputs", None)
    if schema is not None and schema.is_tensor_spec() and not schema.has_input_names():
        import numpy as np

        spec = schema.inputs[0]
        (first, *others) = columns.values()
        if not others and first.ndim > 1:
            return first.astype(spec.type, copy=False)
        flat = np.column_stack(list(columns.values())).astype(spec.type, copy=False)
        return flat[:, 0] if len(spec.shape) == 1 else flat
    types = {} if schema is None else dict(zip(schema.input_names(), schema.numpy_types(), strict=False))
    if schema is not None and schema.is_tensor_spec():
        return {name: values.astype(types[name], copy=False) for name, values in columns.items()}
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    return pd.DataFrame({name: _typed(values, types.get(name)) for name, values in columns.items()})


def _typed(values: NDArray[Any], wanted: Any) -> NDArray[Any]:
    """A number in the width that the signature names; what has nulls, and text, stay as they are."""
    import numpy as np

    kind = None if wanted is None else np.dtype(wanted)
    if kind is None or kind.kind not in "fi" or values.dtype.kind not in "fi" or (kind.kind == "i" and values.dtype.kind == "f"):
        return values
    if kind.kind == "i" and kind.itemsize < values.dtype.itemsize and bool((values != values.astype(kind)).any()):
        raise ValueError(f"a value does not fit the model's type, {kind}")
    return values.astype(kind, copy=False)


@dataclass(frozen=True, slots=True)
class ForeignPredictor:
    """A model behind its client's ``predict``; outputs are named by the signature, one by one."""

    signature: Signature
    model: Any

    def predict(self, columns: Mapping[str, NDArray[Any]]) -> Columns:
        """See ``Predictor.predict``."""
        missing = [column.name for column in self.signature.inputs if column.required and column.name not in columns]
        if missing:
            raise InvalidInput("a column that the model takes is missing", field=missing[0])
        given = {column.name: columns[column.name] for column in self.signature.inputs if column.name in columns} or dict(columns)
        try:
            return named_outputs(self.model(given), [column.name for column in self.signature.outputs])
        except Exception as error:  # the model is somebody's code
            raise ModelFailed(f"{type(error).__name__}: {str(error)[:300]}") from error


def named_outputs(made: Any, names: list[str]) -> Columns:
    """What a client's ``predict`` gave, as columns."""
    import numpy as np

    if hasattr(made, "to_dict") and hasattr(made, "columns"):  # a frame
        made = {str(name): made[name].to_numpy() for name in made.columns}
    if isinstance(made, Mapping):
        columns = {str(name): values for name, values in made.items()}
        if names and not set(names) <= columns.keys() and len(names) == len(columns):
            columns = dict(zip(names, columns.values(), strict=True))
        return columns_of(columns)
    array = np.asarray(made)
    if array.ndim > 1 and (len(names) == 1 or array.ndim > 2) and array.shape[1:] != (1,):
        return columns_of({names[0] if names else "prediction": array})
    if array.ndim == 2 and array.shape[1] > 1:
        stems = names if len(names) == array.shape[1] else [f"prediction_{at}" for at in range(array.shape[1])]
        return columns_of({name: array[:, at] for at, name in enumerate(stems)})
    return columns_of({names[0] if names else "prediction": array.reshape(len(array))})
