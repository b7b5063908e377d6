"""One scheme names everything: ``kind:name@version-or-alias``, or ``kind:id`` for what has no versions."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from andon.core.errors import InvalidAddress

VERSIONED_KINDS = frozenset({"model", "dataset", "features", "prompt", "index", "policy", "pipeline", "release", "service"})
ID_KINDS = frozenset({"run", "verdict", "rollout", "incident", "experiment", "logged-model", "trace", "job"})
LATEST = "latest"

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]*")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
MAX_NAME_BYTES = 200
MAX_ALIAS_BYTES = 255
MAX_EXPERIMENT_CHARACTERS = 500


class Address(msgspec.Struct, frozen=True):
    """Where a thing lives. ``str(address)`` is the text that every face takes.

    ``version`` and ``alias`` are never both set. With neither, a versioned kind means ``@latest``.

    >>> Address.parse("model:bikes@3")
    Address(kind='model', name='bikes', version=3, alias=None)
    >>> str(Address.parse("service:bikes@production"))
    'service:bikes@production'
    """

    kind: str
    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str | Address, *, kind: str | None = None) -> Address:
        """Read an address; with ``kind``, also accept ``name@suffix`` without the kind, and refuse other kinds.

        Raises ``InvalidAddress`` saying which part is wrong.
        """
        if isinstance(text, Address):
            address = text
        elif isinstance(text, str):
            address = _parse(text if kind is None or ":" in text else f"{kind}:{text}")
        else:
            raise InvalidAddress(f"an address is text, not {type(text).__name__}", got=repr(text)[:80])
        if kind is not None and address.kind != kind:
            raise InvalidAddress(f"this takes a {kind}, not a {address.kind}", got=str(address))
        return address

    @property
    def entry(self) -> Address:
        """The same address without version or alias."""
        return self if self.version is None and self.alias is None else Address(self.kind, self.name)

    def at(self, version: int) -> Address:
        """This entry at ``version``."""
        return Address(self.kind, self.name, version)

    def __str__(self) -> str:
        suffix = self.version if self.version is not None else self.alias
        return f"{self.kind}:{self.name}" if suffix is None else f"{self.kind}:{self.name}@{suffix}"


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address:
    kind, colon, rest = text.partition(":")
    if not colon or not rest:
        raise InvalidAddress(got=text[:80])
    if kind in ID_KINDS:
        if kind == "experiment":
            check_experiment(rest)
        elif len(rest) > MAX_NAME_BYTES or not _ID.fullmatch(rest):
            raise InvalidAddress(f"a {kind}'s id holds letters, digits, '-' and '_' only", field="id", got=rest[:80])
        return Address(kind, rest)
    if kind not in VERSIONED_KINDS:
        known = ", ".join(sorted(VERSIONED_KINDS | ID_KINDS))
        raise InvalidAddress(f"there is no kind {kind[:40]!r}; kinds are {known}", field="kind", got=text[:80])
    name, at, suffix = rest.partition("@")
    check_name(name)
    if not at:
        return Address(kind, name)
    if _VERSION.fullmatch(suffix):
        return Address(kind, name, int(suffix))
    if _ALIAS.fullmatch(suffix) and len(suffix) <= MAX_ALIAS_BYTES:
        return Address(kind, name, None, suffix)
    raise InvalidAddress(
        "after '@' comes a version (1, 2, 3, …) or an alias (letters, digits, '-', '_', a letter first)", field="suffix", got=text[:80]
    )


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid entry name, else raise ``InvalidAddress``."""
    if not _NAME.fullmatch(name):
        raise InvalidAddress("a name starts with a-z or 0-9 and goes on with a-z, 0-9, '.', '_', '/' or '-'", field="name", got=name[:80])
    if len(name) > MAX_NAME_BYTES:
        raise InvalidAddress(f"a name has at most {MAX_NAME_BYTES} bytes", field="name", got=name[:40] + "…")
    if ".." in name.split("/") or "." in name.split("/") or "//" in name or name.endswith("/"):
        raise InvalidAddress("a name has no empty, '.' or '..' part", field="name", got=name[:80])
    return name


def check_experiment(name: str) -> str:
    """Return ``name`` if it can name an experiment: at most 500 characters of any script, not blank. Else raise ``InvalidAddress``."""
    if not name.strip() or len(name) > MAX_EXPERIMENT_CHARACTERS or _CONTROL.search(name):
        raise InvalidAddress("an experiment's name is text of at most 500 characters on one line", field="name", got=name[:80])
    return name


def check_alias(alias: str) -> str:
    """Return ``alias`` if people may set it, else raise ``InvalidAddress`` (``latest`` is computed and reserved)."""
    if not _ALIAS.fullmatch(alias) or len(alias) > MAX_ALIAS_BYTES:
        raise InvalidAddress("an alias starts with a letter and holds letters, digits, '-' and '_'", field="alias", got=alias[:80])
    if alias.lower() == LATEST:
        raise InvalidAddress("@latest is computed and cannot be moved", field="alias", got=alias)
    return alias
