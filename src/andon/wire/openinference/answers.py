"""An answer to ``infer`` as the body of a REST response."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.core.errors import ModelFailed
from andon.wire.openinference.models import Outcome
from andon.wire.openinference.tensors import to_bytes

_encode = msgspec.json.Encoder().encode


def infer_answer(outcome: Outcome) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON when tensors follow it (None: all are)."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = [b""]
    for wanted, form, array in outcome.outputs:
        output: dict[str, Any] = {"name": wanted.name, "datatype": form.name, "shape": array.shape}
        if wanted.binary:
            data = to_bytes(array, form)
            output["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            output["data"] = array.reshape(-1).tolist() if form.size else list(map(_text, array.reshape(-1).tolist()))
        outputs.append(output)
    loaded = outcome.loaded
    head = {
        "model_name": outcome.name,
        "model_version": loaded.version,
        "id": outcome.request_id,
        "parameters": {"release": loaded.address, "release_digest": loaded.digest},
        "outputs": outputs,
    }
    try:
        parts[0] = _encode(head)
    except (TypeError, UnicodeEncodeError):
        raise ModelFailed("an output holds values that JSON has no form for") from None
    return (parts[0], None) if len(parts) == 1 else (b"".join(parts), len(parts[0]))


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
