"""PyTorch programs as ``torch.export`` writes them (``.pt2``): described, checked, and run on columns.

This file imports nothing of Andon: the runner program loads it by its path, in a Python that need not have Andon.

A program has no code: it is a graph of operators and its weights. Its file format can hold pickles, though (tensors of subclasses, objects
of one's own), which run code when they are loaded; ``check_archive`` refuses a file that has any.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Columns = dict[str, Any]
Predict = Callable[[Mapping[str, Any], int], Columns]
FILE = "model.pt2"


class Place(NamedTuple):
    """One input: its name, torch dtype, and axes (the first is the rows; -1 is any length)."""

    name: str
    dtype: Any
    axes: tuple[int, ...]


class UnfitError(ValueError):
    """A program that has no columns, or a file that may hold code; the message says why and what to do."""


def check_archive(file: Path) -> None:
    """Raises ``UnfitError`` unless all of the file is data: weights as raw bytes, and sample inputs that are plain tensors."""
    import torch

    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.split("/", 1)[-1]: name for name in archive.namelist()}
            if len(names) != len(archive.namelist()) or "archive_format" not in names:
                raise UnfitError("this is not a file of torch.export.save; write it again with a current torch")
            configs = [name for name in names if name.startswith("data/") and name.endswith("_config.json")]
            payloads = [one for name in configs for one in json.loads(archive.read(names[name]))["config"].values()]
            pickled = [str(one["path_name"]) for one in payloads if one.get("use_pickle", True)]
            pickled += [name for name in names if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt")]
            if pickled:
                raise UnfitError(f"this program holds pickled objects ({pickled[0]}), which run code when they are loaded")
            if any(name.startswith("data/aotinductor/") for name in names):
                raise UnfitError("this program holds compiled code; save the exported program itself (torch.export.save)")
            if not any(name.startswith("models/") for name in names):
                raise UnfitError("this file holds no exported program; write it with torch.export.save")
            samples = [archive.read(path) for name, path in names.items() if name.startswith("data/sample_inputs/")]
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnfitError):
            raise
        raise UnfitError(f"this is not a file of torch.export.save, or it is damaged: {error}") from None
    for sample in samples:
        if sample:
            try:
                torch.load(io.BytesIO(sample), weights_only=True)
            except Exception as error:  # noqa: BLE001 - whatever its reader says, these are not plain tensors
                raise UnfitError(f"this program's sample inputs are not plain tensors: {str(error).splitlines()[0][:200]}") from None


def inputs_of(program: Any) -> list[Place]:
    """What a program takes. Raises ``UnfitError`` for an input that is no tensor."""
    import torch

    signature = program.graph_signature
    named = dict.fromkeys(signature.user_inputs)
    if not all(isinstance(name, str) for name in named):
        raise UnfitError("an input of this program is no tensor; export it with tensors only")
    found = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in named:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                raise UnfitError(f"the input {node.name!r} is no tensor; export it with tensors only")
            found[node.name] = Place(node.name, value.dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape))
    return [found[name] for name in named]


def one_by_one(inputs: Sequence[Place]) -> bool:
    """Whether rows are run one at a time. Raises ``UnfitError`` for an input without rows, or with a fixed number of them."""
    for place in inputs:
        if not place.axes:
            raise UnfitError(f"the input {place.name!r} has no axis for the rows")
        if place.axes[0] > 1:
            raise UnfitError(
                f"the input {place.name!r} takes exactly {place.axes[0]} rows; export it with dynamic_shapes that leave its first axis open"
            )
    return any(place.axes[0] == 1 for place in inputs)


def predictor(program: Any, names: Sequence[str], outputs: Sequence[str], tensors: Sequence[str] = ()) -> Predict:
    """A function from columns and their length to the ``outputs``; see ``andon.models.graphs.predictor``, whose rules are the same."""
    import torch

    wanted = inputs_of(program)
    single = one_by_one(wanted)
    keywords = list(program.call_spec.in_spec.child(1).context or ())
    module = program.module()
    feed = _feeder(wanted, names)
    keep = frozenset(tensors)
    positional = len(wanted) - len(keywords)

    def run(given: list[Any]) -> list[Any]:
        with torch.inference_mode():
            made = module(*given[:positional], **dict(zip(keywords, given[positional:], strict=True)))
        if isinstance(made, Mapping):
            by_name = {str(name): value for name, value in made.items()}
            return [by_name[name] for name in outputs] if set(outputs) <= by_name.keys() else list(by_name.values())[: len(outputs)]
        return list(made)[: len(outputs)] if isinstance(made, tuple | list) else [made]

    def predict(columns: Mapping[str, Any], n: int) -> Columns:
        given = feed(columns, n)
        if single:
            parts = [run([tensor[row : row + 1] for tensor in given]) for row in range(n)]
            results = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        else:
            results = run(given)
        return {name: as_numpy(value, n, flat=name not in keep) for name, value in zip(outputs, results, strict=True)}

    return predict


def as_numpy(value: Any, n: int, *, flat: bool = True) -> Any:
    """A tensor as an array; NumPy has no bfloat16, so that becomes float32. With ``flat``, ``[n, 1]`` is ``[n]``."""
    import torch

    tensor = value.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array.reshape(n) if flat and array.ndim == 2 and array.shape[1] == 1 else array


def _feeder(wanted: Sequence[Place], names: Sequence[str]) -> Callable[[Mapping[str, Any], int], list[Any]]:
    import numpy as np
    import torch

    def tensor(values: Any, place: Place) -> Any:
        array = np.ascontiguousarray(values)
        made = torch.from_numpy(array if array.flags.writeable else array.copy()).to(place.dtype)
        return made.reshape(-1, 1) if made.ndim == 1 and len(place.axes) == 2 else made

    if len(wanted) == 1 and len(names) == 1:
        return lambda columns, _: [tensor(columns[names[0]], wanted[0])]
    known = [place.name for place in wanted]
    if len(wanted) > 1 and set(known) <= set(names):
        return lambda columns, _: [tensor(columns[place.name], place) for place in wanted]
    if len(wanted) != 1 or len(wanted[0].axes) != 2:
        raise UnfitError(f"the inputs {known} are not the signature's columns {list(names)}")
    if wanted[0].axes[1] not in (-1, len(names)):
        raise UnfitError(f"the input {known[0]!r} has {wanted[0].axes[1]} columns and the signature {len(names)}")
    return lambda columns, _: [tensor(np.column_stack([columns[name] for name in names]), wanted[0])]


def open_program(file: Path) -> Any:
    """The program in a file, checked to be nothing but data. Raises ``UnfitError``, or what torch raises for a file it cannot read."""
    import torch

    check_archive(file)
    return torch.export.load(str(file))


def load(spec: Mapping[str, Any]) -> Predict:
    """The function of a saved program; ``spec`` is that of the runner program's ``load_model``."""
    program = open_program(Path(spec["path"], spec["entry"]))
    names, outputs = ([name for name, _ in spec[key]] for key in ("inputs", "outputs"))
    return predictor(program, names, outputs, spec.get("tensors", ()))
