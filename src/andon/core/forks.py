"""What must be put right when this process forks: locks that another thread holds, and connections that are the parent's."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that a fork would break."""

    def before_fork(self) -> bool:
        """Come to rest, soon; whether it did (then one of the next two is owed a release)."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Start afresh: no other thread came along, and connections are the parent's."""
        ...


_followed: weakref.WeakSet[Forked] = weakref.WeakSet()
_local = threading.local()


def follow(thing: Forked) -> None:
    """Tell ``thing`` of every fork for as long as it lives. (``os.register_at_fork`` alone would keep it for ever.)"""
    _followed.add(thing)


def _before() -> None:
    _local.resting = [thing for thing in list(_followed) if thing.before_fork()]


def _in_parent() -> None:
    for thing in _local.resting:
        thing.after_fork_in_parent()
    _local.resting = []


def _in_child() -> None:
    for thing in list(_followed):
        thing.after_fork_in_child()
    _local.resting = []


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
