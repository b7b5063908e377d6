"""Floor 4, the runtime: releases that answer. A front holds them, runners execute them, a swap drops nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from andon.serving.front import Answer, Front

__all__ = ["Answer", "Front"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from andon.serving import front  # a supervisor needs ``presence`` and no front

    return getattr(front, name)
