"""Whether a model can answer requests at all, judged from its manifest, before anything is built or loaded."""

from __future__ import annotations

from andon.core.errors import Incompatible
from andon.models.records import ModelManifest


def check_servable(manifest: ModelManifest, model: str) -> None:
    """Raises ``Incompatible`` saying why a model cannot be served, and what to do. ``model`` is its address, for the message."""
    if manifest.format == "safetensors":
        raise Incompatible(
            "this model is weights alone, without what computes with them",
            model=model,
            next_step='save the module with format="torch", or a folder with the code and the weights, entry="module:Class"',
        )
    for what, columns in (("inputs", manifest.signature.inputs), ("outputs", manifest.signature.outputs)):
        if columns:
            continue
        loader = str(manifest.facts.get("loader", ""))
        raise Incompatible(
            f"the {what} of this model are not known, so no request can be checked and no answer named",
            model=model,
            **({"flavor": loader} if loader else {}),
            next_step="log it again with an input_example or a signature (of columns, or of tensors whose first axis is -1)",
        )
