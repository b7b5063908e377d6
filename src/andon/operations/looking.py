"""Looking at what there is, with the default store."""

from __future__ import annotations

from typing import Any

from andon import registry
from andon.core.addresses import Address
from andon.operations.session import current_store
from andon.store import Store


def show(address: str | Address, *, store: Store | None = None) -> Any:
    """Everything there is to say about an address, as the board and ``andon show --json`` say it."""
    from andon.operations import showing

    return showing.show(store or current_store(), Address.parse(address))


def resolve(address: str | Address, *, store: Store | None = None) -> Address:
    """The versioned address that ``address`` means now."""
    return registry.resolve(store or current_store(), address)


def diff(a: str | Address, b: str | Address, *, store: Store | None = None) -> list[registry.Change]:
    """What changed from version ``a`` to version ``b``."""
    return registry.diff(store or current_store(), a, b)


def lineage(address: str | Address, direction: registry.Direction = "both", *, store: Store | None = None) -> registry.Graph:
    """What something was made from (``up``), what was made from it (``down``), or both."""
    return registry.lineage(store or current_store(), address, direction)


def history(address: str | Address, *, store: Store | None = None) -> list[registry.Move]:
    """Every move of an alias, or of all aliases of a name, oldest first."""
    return registry.moves(store or current_store(), address)
