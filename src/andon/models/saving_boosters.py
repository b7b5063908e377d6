"""Saving XGBoost and LightGBM models in their libraries' own formats (UBJSON and text): no pickle, and read back to prove it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from andon.core.errors import InvalidInput
from andon.models import boosters
from andon.models.conversion import NotConvertibleError, differences, probe_rows
from andon.models.estimators import answer
from andon.models.records import Signature
from andon.models.saved import SavedModel, columns_as_they_are, versions
from andon.models.signatures import columns_of, infer_signature, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

Library = Literal["xgboost", "lightgbm"]
TOLERANCE = 1e-6
"""Parity: ``|saved - model| <= 1e-6 (1 + |model|)``, since a booster's scores may be sums of float32; labels are equal."""
DISTRIBUTIONS: dict[Library, tuple[str, ...]] = {"xgboost": ("xgboost", "xgboost-cpu"), "lightgbm": ("lightgbm",)}


def library_of(model: Any) -> Library | None:
    """The library whose booster (or scikit-learn face of one) this is."""
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if not hasattr(model, "predict"):
        return None
    return "xgboost" if "xgboost" in packages else "lightgbm" if "lightgbm" in packages else None


def save_booster(
    model: Any, library: Library, example: Any, into: Path, signature: Signature | None, optional: Collection[str]
) -> SavedModel:
    """See ``models.save``. The file is read back and must answer the example, and recombinations of its columns, as ``model`` does.

    Raises ``InvalidInput`` when it does not, and for columns that are not numbers.
    """
    if example is None:
        raise InvalidInput("saving this model needs an example: a few input rows", field="example")
    booster, about = _described(model, library)
    columns = _ordered(columns_of(example, names=_names(example, booster, library)), _feature_names(booster, library))
    text = next((name for name, values in columns.items() if values.dtype.kind not in "fib" or values.ndim > 1), None)
    if text is not None:
        raise InvalidInput(
            "a booster is saved with columns of numbers, one value a row",
            field=text,
            got=str(columns[text].dtype),
            next_step='encode it before the booster, or save a folder of your code with entry="module:Class"',
        )
    signature = signature or infer_signature(columns, optional=optional)
    file = boosters.FILES[library]
    booster.save_model(str(into / file))
    about["sha256"] = hashlib.sha256((into / file).read_bytes()).hexdigest()
    (into / boosters.ABOUT).write_text(json.dumps(about, sort_keys=True), encoding="utf-8")
    names = [column.name for column in signature.inputs]
    spec = {"format": library, "path": str(into), "entry": file, "inputs": [(name, "double") for name in names], "outputs": []}
    worst, rows = _parity(model, booster, library, spec, columns, about)
    outputs = boosters.load(spec)(columns, len(next(iter(columns.values()))))
    facts = {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parity": {"rows": rows, "largest_difference": worst, "rtol": TOLERANCE, "atol": TOLERANCE},
    }
    return SavedModel(
        folder=into,
        format=library,
        entry=file,
        signature=signature if signature.outputs else Signature(signature.inputs, columns_as_they_are(outputs)),
        example=rows_of(columns),
        libraries=versions([*DISTRIBUTIONS[library], "numpy"]),
        facts=facts,
    )


def _parity(model: Any, booster: Any, library: Library, spec: dict[str, Any], columns: Columns, about: dict[str, Any]) -> tuple[float, int]:
    probes = probe_rows(columns)
    n = len(next(iter(probes.values())))
    try:
        expected = columns_of(_own_answer(booster, library, probes, about) if model is booster else answer(model, probes))
        found = columns_of(boosters.load(spec)(probes, n))
        if set(found) != set(expected):
            raise NotConvertibleError(f"it answers {', '.join(found)} and the model {', '.join(expected)}")
        return differences(found, expected, rtol=TOLERANCE, atol=TOLERANCE), n
    except NotConvertibleError as error:
        raise InvalidInput(
            f"what was saved does not answer as the model does: {error}",
            field="model",
            next_step='save a folder of your code and the booster with entry="module:Class"',
        ) from None
    except Exception as error:  # whatever the library says of the example is the caller's to read
        raise InvalidInput(f"the model refuses the example: {type(error).__name__}: {str(error)[:300]}", field="example") from error


def _own_answer(booster: Any, library: Library, columns: Columns, about: dict[str, Any]) -> Columns:
    """What the library's own booster gives for columns, through its ordinary ``predict``."""
    import numpy as np

    rows = np.column_stack([values.astype(np.float64) for values in columns.values()])
    if library == "xgboost":
        import xgboost  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return boosters.named(booster.predict(xgboost.DMatrix(rows, feature_names=booster.feature_names)), about["classes"])
    return boosters.named(booster.predict(rows), about["classes"])


def _described(model: Any, library: Library) -> tuple[Any, dict[str, Any]]:
    """The booster itself, and what its scikit-learn face knows beyond it. Raises ``InvalidInput`` when it is not fitted."""
    try:
        if library == "xgboost":
            booster = model.get_booster() if hasattr(model, "get_booster") else model
        else:
            booster = model.booster_ if hasattr(type(model), "booster_") else model
        classes = getattr(model, "classes_", None)
    except Exception as error:  # each library has a type of its own for that
        raise InvalidInput(f"this model is not fitted: {str(error)[:200]}", field="model") from error
    iterations = 0
    if library == "xgboost" and booster is not model:  # its file keeps every round; the other library's keeps the best ones
        try:
            iterations = int(model.best_iteration) + 1
        except AttributeError:  # no early stopping
            iterations = 0
    return booster, {"classes": None if classes is None else [_plain(label) for label in list(classes)], "iterations": iterations}


def _plain(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label


def _feature_names(booster: Any, library: Library) -> list[str] | None:
    """The names it was trained with; None when it was given none."""
    names = booster.feature_names if library == "xgboost" else booster.feature_name()
    if not names or (library == "lightgbm" and list(names) == [f"Column_{at}" for at in range(len(names))]):
        return None
    return list(names)


def _names(example: Any, booster: Any, library: Library) -> list[str] | None:
    known = _feature_names(booster, library)
    width = getattr(example, "shape", (0, 0))
    return known if known is not None and len(width) == 2 and len(known) == width[1] else None


def _ordered(columns: Columns, known: list[str] | None) -> Columns:
    """Columns in the order of training. Raises ``InvalidInput`` naming one that the booster does not know."""
    if known is None:
        return columns
    given = {name.replace(" ", "_"): name for name in columns} if set(columns) != set(known) else {name: name for name in columns}
    missing = [name for name in known if name not in given]
    if missing or len(given) != len(known):
        extra = [name for name in columns if name.replace(" ", "_") not in known]
        raise InvalidInput(
            "the example's columns are not those that the booster was trained with",
            field="example",
            missing=", ".join(missing[:5]),
            unknown=", ".join(extra[:5]),
        )
    return {given[name]: columns[given[name]] for name in known}
