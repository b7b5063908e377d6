"""The digest of a function's code: its text, and that of what it uses from code that is not installed.

Followed: functions, classes and plain constants that the function names, in its module, its closure and modules beside it, as far as they
lead. Not followed: installed packages and the standard library (the run's environment lock has those), and what is reached only through
objects at run time; ``version`` on the step is for that.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from andon.core.digests import digest_json
from andon.core.errors import InvalidInput

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {str(Path(__file__).parents[1])})


def code_digest(function: Callable[..., Any], *, version: str = "") -> str:
    """The digest of a function's code and of the code it leads to.

    >>> def double(x): return 2 * x
    >>> code_digest(double) == code_digest(double)
    True
    """
    found: dict[str, Any] = {}
    _follow(inspect.unwrap(function), found)
    return digest_json({"version": version, "parts": found})


def source_of(function: Callable[..., Any]) -> str:
    """A function's text; empty where there is none to be had (an interactive prompt)."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (OSError, TypeError):
        return ""


def names_in(code: CodeType) -> Iterator[str]:
    """Global and attribute names that a code object and those inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _follow(target: Any, found: dict[str, Any]) -> None:
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    if name in found:
        return
    found[name] = source_of(target) or _without_source(target)
    functions = [target] if isinstance(target, FunctionType) else [item for item in vars(target).values() if isinstance(item, FunctionType)]
    for function in functions:
        used = list(dict.fromkeys(names_in(function.__code__)))
        scope = function.__globals__
        for cell_name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                _use(f"{name}.{cell_name}", cell.cell_contents, found)
            except ValueError:  # a cell that is not filled yet
                continue
        for used_name in used:
            if used_name not in scope:
                continue
            value = scope[used_name]
            if isinstance(value, ModuleType):
                for attribute in used:
                    if _is_own(value.__name__) and attribute in vars(value):
                        _use(f"{value.__name__}.{attribute}", vars(value)[attribute], found)
            else:
                _use(f"{function.__module__}.{used_name}", value, found)


def _use(name: str, value: Any, found: dict[str, Any]) -> None:
    inner = inspect.unwrap(value) if callable(value) else value
    if isinstance(inner, FunctionType | type):
        if _is_own(inner.__module__):
            _follow(inner, found)
    elif isinstance(value, bool | int | float | str | None):
        found[name] = repr(value)
    elif isinstance(value, tuple | list | frozenset | set | dict) and len(value) <= 1_000:
        try:
            found[name] = digest_json(sorted(value) if isinstance(value, set | frozenset) else value)
        except (InvalidInput, TypeError):  # it holds objects, which have no digest
            return


@lru_cache(maxsize=4096)
def _is_own(module_name: str) -> bool:
    """Whether a module is the user's own: neither installed nor built in."""
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if file is None:
        return module_name == "__main__"
    return not str(Path(file).resolve()).startswith(tuple(str(Path(place).resolve()) for place in _INSTALLED))


def _without_source(target: Any) -> Any:
    code = getattr(target, "__code__", None)
    return [code.co_code.hex(), repr([item for item in code.co_consts if not isinstance(item, CodeType)])] if code is not None else ""
