"""Andon: the production line for machine-learning and LLM systems.

Everything here is loaded when it is first used, so that ``import andon`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from andon.core.actors import Actor
    from andon.core.addresses import Address
    from andon.core.errors import AndonError
    from andon.core.verdicts import Verdict
    from andon.models import Column, Signature
    from andon.operations.composing import cascade, ensemble
    from andon.operations.data import dataset, load_model, register_dataset
    from andon.operations.labelling import labels
    from andon.operations.looking import diff, history, lineage, resolve, show
    from andon.operations.moving import alias, deploy, rollback, waive
    from andon.operations.pipelines import run_pipeline
    from andon.operations.policies import register_policy
    from andon.operations.predicting import predict
    from andon.operations.releasing import release
    from andon.operations.runs import run
    from andon.operations.session import use
    from andon.operations.watching import cord, watch
    from andon.pipelines import pipeline, step
    from andon.rollouts.strategies import ab, blue_green, canary, challenger, shadow
    from andon.store import Store, memory_store, open_store
    from andon.tracking import Run, seed

__version__ = "0.1.0"

_WHERE = {
    "Actor": "andon.core.actors",
    "Address": "andon.core.addresses",
    "AndonError": "andon.core.errors",
    "Column": "andon.models",
    "Run": "andon.tracking",
    "Signature": "andon.models",
    "Store": "andon.store",
    "Verdict": "andon.core.verdicts",
    "ab": "andon.rollouts.strategies",
    "alias": "andon.operations.moving",
    "cascade": "andon.operations.composing",
    "blue_green": "andon.rollouts.strategies",
    "canary": "andon.rollouts.strategies",
    "challenger": "andon.rollouts.strategies",
    "cord": "andon.operations.watching",
    "dataset": "andon.operations.data",
    "deploy": "andon.operations.moving",
    "diff": "andon.operations.looking",
    "ensemble": "andon.operations.composing",
    "history": "andon.operations.looking",
    "labels": "andon.operations.labelling",
    "lineage": "andon.operations.looking",
    "load_model": "andon.operations.data",
    "memory_store": "andon.store",
    "open_store": "andon.store",
    "pipeline": "andon.pipelines",
    "predict": "andon.operations.predicting",
    "register_dataset": "andon.operations.data",
    "register_policy": "andon.operations.policies",
    "release": "andon.operations.releasing",
    "resolve": "andon.operations.looking",
    "rollback": "andon.operations.moving",
    "run": "andon.operations.runs",
    "run_pipeline": "andon.operations.pipelines",
    "seed": "andon.tracking",
    "shadow": "andon.rollouts.strategies",
    "show": "andon.operations.looking",
    "step": "andon.pipelines",
    "use": "andon.operations.session",
    "waive": "andon.operations.moving",
    "watch": "andon.operations.watching",
}

__all__ = [
    "Actor",
    "Address",
    "AndonError",
    "Column",
    "Run",
    "Signature",
    "Store",
    "Verdict",
    "__version__",
    "ab",
    "alias",
    "blue_green",
    "canary",
    "cascade",
    "challenger",
    "cord",
    "dataset",
    "deploy",
    "diff",
    "ensemble",
    "history",
    "labels",
    "lineage",
    "load_model",
    "memory_store",
    "open_store",
    "pipeline",
    "predict",
    "register_dataset",
    "register_policy",
    "release",
    "resolve",
    "rollback",
    "run",
    "run_pipeline",
    "seed",
    "shadow",
    "show",
    "step",
    "use",
    "waive",
    "watch",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'andon' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
