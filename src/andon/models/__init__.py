"""Models: formats, signatures, saving and loading. Weights are bytes in the artifact store; pickle only when asked for by name.

``save_model`` and ``load_model`` go through the registry; ``save`` and ``load`` are the same without a store (serving lays files out
itself). What an ONNX graph takes and gives is in ``andon.models.graphs``.
"""

from andon.models.foreign import describe_foreign, files_at_in
from andon.models.loading import Predictor, Weights, load
from andon.models.records import Column, Dtype, Format, ModelManifest, Signature
from andon.models.registering import load_model, register_saved, save_model
from andon.models.saved import SavedModel
from andon.models.saving import save
from andon.models.signatures import columns_from_rows, columns_of, infer_signature, rows_of

__all__ = [
    "Column",
    "Dtype",
    "Format",
    "ModelManifest",
    "Predictor",
    "SavedModel",
    "Signature",
    "Weights",
    "columns_from_rows",
    "columns_of",
    "describe_foreign",
    "files_at_in",
    "infer_signature",
    "load",
    "load_model",
    "register_saved",
    "rows_of",
    "save",
    "save_model",
]
