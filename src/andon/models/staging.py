"""A model that is a Python class, called in stages: ``setup`` once, then ``decode``, ``predict`` and ``encode`` for each batch.

::

    class Prices:
        def setup(self, folder): ...      # once for each process; ``folder`` is a pathlib.Path with the model's files
        def decode(self, columns): ...    # request columns (dict of NumPy arrays, n values each) -> what ``predict`` takes
        def predict(self, batch): ...     # a whole batch of requests' rows at once
        def encode(self, result): ...     # what ``predict`` gave -> output columns, or one array for the first output

All but ``predict`` may be left out: without ``decode`` it takes the columns, without ``encode`` it gives the outputs. A class without
``setup`` that has an ``__init__`` of its own is made with the folder: ``Prices(folder)``.

This file imports nothing of Andon, and nothing but the standard library: the runner program loads it by its path, in a Python that need
not have Andon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("setup", "transform", "decode", "predict", "encode")


def make(kind: Any, folder: Path) -> Any:
    """An instance that is set up. ``kind`` is the class, or a function of the folder. Marks what it raises as of the stage ``setup``."""
    if hasattr(kind, "setup"):
        model = in_stage("setup", kind)
        in_stage("setup", model.setup, folder)
        return model
    if isinstance(kind, type) and getattr(kind, "__init__", None) is object.__init__:
        return in_stage("setup", kind)
    return in_stage("setup", kind, folder)


def answer(model: Any, columns: dict[str, Any]) -> Any:
    """A batch through decode, predict and encode: a mapping of columns, or one array. Marks what they raise with their stage."""
    decode, encode = getattr(model, "decode", None), getattr(model, "encode", None)
    batch = columns if decode is None else in_stage("decode", decode, columns)
    made = in_stage("predict", model.predict, batch)
    return made if encode is None else in_stage("encode", encode, made)


def in_stage(stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``; what it raises says which stage it was (see ``stage_of``)."""
    try:
        return function(*arguments)
    except BaseException as error:
        with contextlib.suppress(AttributeError, TypeError):  # an exception with slots of its own goes on without the mark
            error.andon_stage = stage  # type: ignore[attr-defined]
        raise


def stage_of(error: BaseException) -> str | None:
    """The stage that raised ``error``, or None when that is not known.

    >>> try:
    ...     in_stage("decode", int, "x")
    ... except ValueError as error:
    ...     stage_of(error)
    'decode'
    """
    stage = getattr(error, "andon_stage", None)
    return stage if stage in STAGES else None
