"""Saving a PyTorch module as a program of ``torch.export``: a graph of operators with its weights, without the module's code."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.models import programs
from andon.models.graphs import matrix
from andon.models.records import Column, Signature
from andon.models.saved import SavedModel, columns_as_they_are, named_like, same_alone, versions
from andon.models.signatures import columns_of, dtype_of, infer_signature, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5
"""``|program - module| <= 1e-5 + 1e-4 |module|`` on the example: torch's own float32 tolerance for kernels that may order sums otherwise is
1.3e-6 for one operator, and a network is many."""


def is_program(model: Any) -> bool:
    """Whether this is an exported program, or a path ending in ``.pt2`` (torch is not imported)."""
    if isinstance(model, str | Path):
        return str(model).endswith(".pt2")
    return type(model).__name__ == "ExportedProgram" and type(model).__module__.startswith("torch.")


def save_program(model: Any, example: Any, into: Path, signature: Signature | None, optional: Collection[str]) -> SavedModel:
    """See ``models.save``. The saved program is read back, and answers the example as the module does.

    Raises ``InvalidInput`` saying why a module has no program, or none that can be served.
    """
    module = _module(model)
    if example is None and module is not None:
        raise InvalidInput("exporting a module needs an example: a few input rows", field="example")
    columns = None if example is None else columns_of(example, names=_names(module, example))
    program = _exported(module, columns) if module is not None and columns is not None else _program(model)
    import torch

    with _quietly():
        torch.export.save(program, str(into / programs.FILE))
    try:
        program = programs.open_program(into / programs.FILE)
        places = programs.inputs_of(program)
        single = programs.one_by_one(places)
        known = {place.name: column for place in places if (column := _column(place)) is not None}
        if columns is not None:
            told = signature or infer_signature(columns, optional=optional)
            by_place = len(told.inputs) == len(places) == 1 and places[0].name not in columns
            signature = told if signature is not None or by_place else Signature(named_like(known, told.inputs), ())
        elif signature is None:
            if len(known) < len(places):
                raise InvalidInput("the columns of this program cannot be told; pass an example or a signature", field="example")
            signature = Signature(tuple(known.values()), ())
        signature, parity = _answered(program, module, signature, columns)
    except programs.UnfitError as error:
        raise InvalidInput(f"this program cannot be served: {error}", field="model") from None
    kind = type(program if isinstance(model, str | Path) else model)
    facts: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"} | parity
    if single:
        facts["rows"] = "one at a time, since the program's first axis is fixed at 1"
    return SavedModel(
        folder=into,
        format="torch",
        entry=programs.FILE,
        signature=signature,
        example=rows_of(columns) if columns is not None else (),
        libraries=versions(["torch", "numpy"]),
        facts=facts,
    )


def _module(model: Any) -> Any:
    torch = sys.modules.get("torch")
    return model if torch is not None and isinstance(model, torch.nn.Module) else None


def _program(model: Any) -> Any:
    if not is_program(model):
        raise InvalidInput("the format torch takes a module, a program of torch.export, or its .pt2 file", field="model")
    if not isinstance(model, str | Path):
        return model
    if not Path(model).is_file():
        raise InvalidInput("there is no such file", field="model", got=model)
    try:
        return programs.open_program(Path(model))
    except Exception as error:  # the reader raises errors of its own, ours among them
        raise InvalidInput(f"this program cannot be read: {str(error)[:300]}", field="model") from error


def _answered(program: Any, module: Any, signature: Signature, columns: Columns | None) -> tuple[Signature, dict[str, Any]]:
    """The signature with outputs, and how near the program's answers to the example are to the module's."""
    import numpy as np

    names = [column.name for column in signature.inputs]
    if columns is None:
        if not signature.outputs:
            raise InvalidInput("what this program answers cannot be told; pass an example, or a signature with outputs", field="example")
        programs.predictor(program, names, [column.name for column in signature.outputs])
        return signature, {}
    n = len(next(iter(columns.values())))
    reference = _outputs(module, columns) if module is not None else None
    outputs = [column.name for column in signature.outputs] or (list(reference) if reference else _output_names(program))
    try:
        predict = programs.predictor(program, names, outputs)
        made = predict(columns, n)
        mixed = same_alone(predict, columns)
    except programs.UnfitError:
        raise
    except ValueError as error:
        raise programs.UnfitError(str(error)) from None
    except Exception as error:  # whatever torch says of the example is the caller's to read
        raise InvalidInput(f"the program refuses the example: {type(error).__name__}: {str(error)[:300]}", field="example") from error
    if mixed is not None:
        raise programs.UnfitError(f"{mixed!r} of a row depends on the other rows of its batch; export it for one row (a first axis of 1)")
    facts: dict[str, Any] = {}
    if reference is not None:
        worst = 0.0
        for name, wanted in zip(made, reference.values(), strict=False):
            if not np.allclose(made[name], wanted, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True):
                raise InvalidInput("the exported program does not answer the example as the module does", field="model", output=name)
            if wanted.dtype.kind == "f" and wanted.size:
                worst = max(worst, float(np.nanmax(np.abs(made[name] - wanted) / np.maximum(np.abs(wanted), ABSOLUTE_TOLERANCE))))
        facts["parity"] = {"rows": n, "largest_difference": worst, "rtol": RELATIVE_TOLERANCE, "atol": ABSOLUTE_TOLERANCE}
    return (signature if signature.outputs else Signature(signature.inputs, columns_as_they_are(made))), facts


def _outputs(module: Any, columns: Columns) -> Columns:
    """What the module itself answers."""
    import torch

    arguments, keywords = _arguments(module, columns)
    n = len(next(iter(columns.values())))
    with torch.inference_mode(), _evaluating(module):
        made = module(*arguments, **keywords)
    if isinstance(made, Mapping):
        return {str(name): programs.as_numpy(value, n) for name, value in made.items()}
    values = list(made) if isinstance(made, tuple | list) else [made]
    names = ["prediction"] if len(values) == 1 else [f"prediction_{at}" for at in range(len(values))]
    return {name: programs.as_numpy(value, n) for name, value in zip(names, values, strict=True)}


def _output_names(program: Any) -> list[str]:
    spec = program.call_spec.out_spec
    if spec.type is not None and issubclass(spec.type, dict):
        return [str(name) for name in spec.context]
    return ["prediction"] if spec.num_leaves == 1 else [f"prediction_{at}" for at in range(spec.num_leaves)]


def _exported(module: Any, columns: Columns) -> Any:
    """The module as a program that takes any number of rows; else one that takes one row. Raises ``InvalidInput`` with torch's reason."""
    import torch

    arguments, keywords = _arguments(module, columns)

    def rows(tensor: Any, n: int) -> Any:
        return tensor[:1].repeat(n, *[1] * (tensor.ndim - 1)) if n == 1 or len(tensor) < n else tensor

    with _quietly(), _evaluating(module):
        open_ = torch.export.Dim("batch", min=1)
        axes: Any = {name: {0: open_} for name in keywords} if keywords else tuple({0: open_} for _ in arguments)
        two = [rows(tensor, 2) for tensor in arguments], {name: rows(tensor, 2) for name, tensor in keywords.items()}
        try:
            return torch.export.export(module, tuple(two[0]), two[1], dynamic_shapes=axes)
        except Exception as error:  # noqa: BLE001 - export fails in many ways; a program of one row is tried, and the reason is kept
            reason = error
        one = [rows(tensor, 1) for tensor in arguments], {name: rows(tensor, 1) for name, tensor in keywords.items()}
        try:
            return torch.export.export(module, tuple(one[0]), one[1])
        except Exception:  # noqa: BLE001 - whatever it is, the first reason says more
            lines = str(reason).strip().splitlines()
            raise InvalidInput(
                f"torch.export cannot make a program of this module: {type(reason).__name__}: {lines[0][:300] if lines else ''}",
                field="model",
                next_step='save a folder of your code and the weights with entry="module:Class"',
            ) from reason


def _arguments(module: Any, columns: Columns) -> tuple[list[Any], dict[str, Any]]:
    """What ``forward`` is called with: tensors by position, or by name where columns leave some of its parameters out."""
    import torch

    floating = next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)
    text = next((name for name, values in columns.items() if values.dtype.kind not in "fiub"), None)
    if text is not None:
        raise InvalidInput("a torch program takes numbers and booleans", field=text, got=str(columns[text].dtype))

    def tensor(values: Any) -> Any:
        made = torch.from_numpy(values.copy())
        return made.to(floating) if made.is_floating_point() else made

    parameters = _parameters(module)
    required = [name for name, needed in parameters.items() if needed]
    if set(columns) <= set(parameters):
        if list(parameters)[: len(columns)] == list(columns):
            return [tensor(values) for values in columns.values()], {}
        return [], {name: tensor(columns[name]) for name in parameters if name in columns}
    scalars = all(values.ndim == 1 for values in columns.values())
    if scalars and len(required) <= 1 <= len(parameters):
        n = len(next(iter(columns.values())))
        return [tensor(matrix(columns, list(columns), n, "float64"))], {}
    raise InvalidInput(
        "the example's columns are not what forward takes",
        field="example",
        columns=", ".join(columns)[:200],
        takes=", ".join(parameters)[:200],
        next_step="name each tensor of the example as forward does",
    )


def _parameters(module: Any) -> dict[str, bool]:
    """The names that ``forward`` takes, and whether each is needed."""
    found = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name: one.default is inspect.Parameter.empty for one in found if one.kind in kinds}


def _names(module: Any, example: Any) -> list[str] | None:
    """An array of more than two dimensions is the one thing that ``forward`` takes, and is called as that is."""
    names = list(_parameters(module)) if module is not None else []
    return names[:1] if names and len(getattr(example, "shape", ())) > 2 else None


def _column(place: programs.Place) -> Column | None:
    """The column that an input is; None for a type that NumPy has not."""
    import torch

    if not place.axes:
        return None
    made = torch.empty(0, dtype=place.dtype)
    array = (made.float() if place.dtype == torch.bfloat16 else made).numpy()
    return Column(place.name, dtype_of(array, place.name), shape=() if place.axes[1:] == (1,) else place.axes[1:])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what it deprecates is not our caller's concern
        yield


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module and its parts in evaluation mode (no dropout), and after that as each was."""
    was = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, part in module.named_modules():
            part.training = was[name]
