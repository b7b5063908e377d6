"""A service with a model and some releases, without any serving: the scorer is a function here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from andon import registry
from andon.core.clocks import DAY_US, HOUR_US
from andon.models import Column, ModelManifest, Signature
from andon.releases import CodePin, Examples, Made, assemble, make
from andon.store import Store
from andon.tracking.records import EnvironmentLock
from tests.conftest import ANA, START_US

SIGNATURE = Signature((Column("hr", "double"),), (Column("rentals", "double"),))
LOCK = EnvironmentLock(python="3.11.7", platform="linux-x86_64", requirements=("numpy==2.4.6",))


def register_model(store: Store, name: str = "bikes", tag: str = "a", signature: Signature = SIGNATURE, parents: Any = ()) -> str:
    digest = store.blobs.put(tag.encode())
    manifest = ModelManifest(format="onnx", files=digest, entry="model.onnx", signature=signature)
    return str(registry.register(store, "model", name, manifest, actor=ANA, blobs=[digest], parents=parents).address)


def examples(days: int = 28) -> Examples:
    rng = np.random.default_rng(7)
    n = days * 24
    hour = np.arange(n) % 24
    label = 100 + 50 * np.sin(hour / 24 * 6.28) + rng.normal(0, 10, n)
    baseline = label + rng.normal(0, 40, n)
    event_us = START_US + np.arange(n) * HOUR_US
    return Examples(columns={"hr": hour.astype(float)}, label=label, event_us=event_us, baseline=baseline, baseline_name="last week")


def scorer(bias: Callable[[Any], float] = lambda manifest: 0.0) -> Any:
    """Predicts the true curve plus what ``bias`` says of the release."""
    return lambda manifest, columns: 100 + 50 * np.sin(columns["hr"] / 24 * 6.28) + bias(manifest)


@pytest.fixture
def line(store: Store) -> Callable[..., Made]:
    """Make the next release of ``bikes``: ``line(bias=0, model_tag="a", transform=None, …)``."""

    def next_release(bias: float = 0.0, tag: str = "a", **options: Any) -> Made:
        store.clock.advance(DAY_US)  # type: ignore[attr-defined]
        waive = options.pop("waive", None)
        judged = options.pop("examples", examples())
        model = register_model(store, tag=tag)
        manifest = assemble(store, "bikes", model=model, environment=options.pop("environment", LOCK), **options)
        score = scorer(lambda m: bias if m == manifest or m.model.address == model else 0.0)
        return make(store, manifest, examples=judged, score=score, actor=ANA, reason="test", waive=waive)

    return next_release


__all__ = ["LOCK", "SIGNATURE", "CodePin", "examples", "line", "register_model", "scorer"]
