"""What the registry knows."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.core.addresses import Address


class Parent(msgspec.Struct, frozen=True):
    """What a version was made from, and as what: ``Parent("run:01J…", "run")``, ``Parent("dataset:rides@3", "data")``."""

    address: str
    role: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version. After deletion only the tombstone is left: ``manifest`` is None and ``deleted_us`` is set."""

    address: Address
    digest: str
    manifest: Any
    created_us: int
    actor: str
    reason: str
    deleted_us: int | None = None
    deleted_by: str | None = None
    deleted_why: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A name with its versions counted (0: none yet) and its aliases listed."""

    kind: str
    name: str
    head: int
    created_us: int
    changed_us: int
    aliases: dict[str, str] = {}
    title: str | None = None
    """What a foreign client calls it, whose names are freer than ours; None: by its name."""
    description: str = ""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One move of an alias. ``source`` and ``target`` are versioned addresses; None is "nothing"."""

    address: str
    revision: int
    source: str | None
    target: str | None
    at_us: int
    actor: str
    reason: str


class TagChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a tag; ``value`` None means it was removed."""

    subject: str
    key: str
    value: str | None
    at_us: int
    actor: str
    reason: str
