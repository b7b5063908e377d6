"""What there is to say of a server, a model and its work, as the protocol's JSON. gRPC's messages have the same fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from andon.models.records import Column, Signature
from andon.serving.loading import Loaded
from andon.serving.statistics import Duration, Statistics
from andon.wire.openinference.datatypes import of_column

EXTENSIONS = ("binary_tensor_data", "parameters", "model_configuration", "model_repository", "statistics")
PLATFORM = "andon_release"


def server_metadata(version: str) -> dict[str, Any]:
    """``GET /v2``."""
    return {"name": "andon", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """``GET /v2/models/NAME``: one tensor for each column; -1 is the number of rows, and any axis that may have any length."""
    inputs = [_tensor(column) for column in signature.inputs]
    outputs = [_tensor(column) for column in signature.outputs]
    return {"name": name, "versions": list(versions), "platform": PLATFORM, "inputs": inputs, "outputs": outputs}


def _tensor(column: Column) -> dict[str, Any]:
    return {"name": column.name, "datatype": of_column(column.dtype).name, "shape": [-1, *column.shape]}


def model_config(name: str, loaded: Loaded) -> dict[str, Any]:
    """``GET /v2/models/NAME/config``, as Triton says it.

    ``max_batch_size`` is 0, which there means that the first dimension is part of ``dims``: a column of scalars is ``[-1]``.
    """
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": loaded.model.format,
        "version_policy": {"specific": {"versions": [int(loaded.version)]}},
        "max_batch_size": 0,
        "input": [
            {
                "name": column.name,
                "data_type": of_column(column.dtype).config_name,
                "format": "FORMAT_NONE",
                "dims": [-1, *column.shape],
                "optional": not column.required,
            }
            for column in loaded.signature.inputs
        ],
        "output": [
            {"name": column.name, "data_type": of_column(column.dtype).config_name, "dims": [-1, *column.shape]}
            for column in loaded.signature.outputs
        ],
        "parameters": {
            "release": {"string_value": loaded.address},
            "release_digest": {"string_value": loaded.digest},
        },
    }


def model_statistics(name: str, loaded: Loaded) -> dict[str, Any]:
    """One of ``GET /v2/models/NAME/stats``, since the release was loaded in this process. Nanoseconds; ``inference_count`` is rows.

    There is no response cache, so its counts are 0.
    """
    seen: Statistics = loaded.batcher.statistics
    return {
        "name": name,
        "version": loaded.version,
        "last_inference": seen.last_ms,
        "inference_count": seen.rows,
        "execution_count": seen.batches,
        "inference_stats": {
            "success": _duration(seen.success),
            "fail": _duration(seen.fail),
            "queue": _duration(seen.queue),
            "compute_input": _duration(seen.input),
            "compute_infer": _duration(seen.infer),
            "compute_output": _duration(seen.output),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(batch.input),
                "compute_infer": _duration(batch.infer),
                "compute_output": _duration(batch.output),
            }
            for size, batch in sorted(seen.batch_sizes.items())
        ],
        "memory_usage": [],
    }


def _duration(seen: Duration) -> dict[str, int]:
    return {"count": seen.count, "ns": seen.ns}


TRACE_SETTINGS: dict[str, Any] = {"trace_level": ["OFF"], "trace_rate": "0", "trace_count": "0", "log_frequency": "0", "trace_file": ""}
"""Triton's own tracer, which is not here; traces are OpenTelemetry's."""
LOG_SETTINGS: dict[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
