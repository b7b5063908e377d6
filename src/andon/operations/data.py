"""Datasets and models, with the default store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.datasets import Dataset
    from andon.models import Predictor
    from andon.registry import Version


def dataset(address: str | Address, *, store: Store | None = None) -> Dataset:
    """Read a dataset version (``rides@3``, ``dataset:rides@latest``), verified as it is read; the active run records it as an input."""
    from andon import datasets

    return datasets.read(store or current_store(), Address.parse(address, kind="dataset"))


def register_dataset(
    name: str, source: Any, *, event_time: str | None = None, why: str = "", store: Store | None = None, actor: Actor | None = None
) -> Version:
    """Register a file, a folder or a table as the next version of ``dataset:NAME``; the same data gives the same version back."""
    from andon import datasets

    return datasets.register(store or current_store(), name, source, actor=actor or current_actor(), event_time=event_time, reason=why)


def load_model(address: str | Address, *, allow_pickle: bool = False, store: Store | None = None) -> Predictor:
    """A model version as something that predicts: columns in, columns out. Pickle only when asked for."""
    from andon import models

    return models.load_model(store or current_store(), Address.parse(address, kind="model"), allow_pickle=allow_pickle)
