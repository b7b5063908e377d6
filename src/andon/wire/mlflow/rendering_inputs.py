"""What a run read and made, as its answer holds it: ``inputs`` and ``outputs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from andon.tracking.inputs import DescribedInput
from andon.tracking.logged_models import RunModel

CONTEXT_TAG = "mlflow.data.context"


def inputs_json(described: Sequence[DescribedInput], models: Sequence[RunModel] = ()) -> dict[str, Any]:
    """A run's ``inputs``: the data, and of ``models`` those that went in (the list may hold the others too). Empty lists are left out.

    The protocol's server names models only where a single run is read, so a search passes none.
    """
    made: dict[str, Any] = {}
    if described:
        made["dataset_inputs"] = [_dataset_input(item) for item in described]
    went_in = [{"model_id": item.model} for item in models if item.role == "input"]
    if went_in:
        made["model_inputs"] = went_in
    return made


def outputs_json(models: Sequence[RunModel]) -> dict[str, Any]:
    """A run's ``outputs``: of ``models``, those that came out, with the step; ``{}`` when there are none."""
    made = [{"model_id": item.model, "step": item.step} for item in models if item.role == "output"]
    return {"model_outputs": made} if made else {}


def _dataset_input(item: DescribedInput) -> dict[str, Any]:
    dataset = {"name": item.name, "digest": item.digest, "source_type": item.source_type, "source": item.source}
    if item.schema:
        dataset["schema"] = item.schema
    if item.profile:
        dataset["profile"] = item.profile
    tags = [{"key": key, "value": value} for key, value in item.tags.items()]
    if item.context is not None:
        tags.insert(0, {"key": CONTEXT_TAG, "value": item.context})
    return {"tags": tags, "dataset": dataset} if tags else {"dataset": dataset}
