"""A request to infer, as both transports read it: its tensors, and what else it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import InvalidInput, TooLarge
from andon.serving.validation import check_request_id, parse_json
from andon.wire.openinference.tensors import from_bytes, from_json

if TYPE_CHECKING:
    import numpy as np

MAX_TIMEOUT_US = 2**53
MAX_TENSORS = 4096
"""Inputs, outputs or parameters of one request: a body of nothing but empty ones would keep the replica busy for long."""


class Wanted(msgspec.Struct, frozen=True):
    """An output that is asked for, and whether as bytes."""

    name: str
    binary: bool


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says, before it meets a release."""

    tensors: dict[str, np.ndarray[Any, Any]]
    whole: bytes | memoryview | None = None
    """The body of a raw binary request: the bytes of the only input, which says neither shape nor datatype."""
    id: str | None = None
    key: str | None = None
    """The user or session that a split assigns; the parameter ``key``."""
    timeout_s: float | None = None
    outputs: tuple[Wanted, ...] | None = None
    """None: all of them."""
    binary: bool = False
    """Whether outputs that are not listed are given as bytes."""


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decoder = msgspec.json.Decoder(_Body)


def parse_infer(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read the body of ``infer``. ``header_length`` is how many bytes of it are JSON, the rest being tensors; None: all; 0: none.

    Raises ``InvalidInput`` naming the tensor.
    """
    if header_length == 0:
        return InferRequest(tensors={}, whole=body, binary=True)
    tail = memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            why = f"it says {header_length} bytes, and the body has {len(body)}"
            raise InvalidInput(why, field="inference-header-content-length")
        body, tail = body[:header_length], memoryview(body)[header_length:]
    asked = parse_json(body, _decoder)
    check_count(len(asked.inputs), len(asked.outputs or ()))
    tensors = _tensors(asked.inputs, tail)
    binary = timeout_s = key = None
    if asked.parameters:
        timeout_s, key = read_parameters(asked.parameters)
        binary = _flag(asked.parameters, "binary_data_output", "parameters")
    return InferRequest(
        tensors=tensors,
        id=asked.id and check_request_id(asked.id),
        key=key,
        timeout_s=timeout_s,
        outputs=None if asked.outputs is None else tuple(_wanted(output, binary or False) for output in asked.outputs),
        binary=binary or False,
    )


def check_count(*counts: int) -> None:
    """Raises ``TooLarge`` when a request has more inputs, outputs or parameters than any release."""
    if max(counts) > MAX_TENSORS:
        raise TooLarge(f"a request has at most {MAX_TENSORS} inputs, outputs or parameters", got=max(counts))


def _tensors(inputs: Sequence[_Tensor], tail: memoryview) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    at = 0
    for tensor in inputs:
        name, size = tensor.name, None
        if tensor.parameters:
            refuse_shared_memory(tensor.parameters, name)
            size = tensor.parameters.get("binary_data_size")
        if size is None:
            array = from_json(tensor.data, tensor.datatype, tensor.shape, name)
        else:
            if type(size) is not int or size < 0:
                raise InvalidInput("binary_data_size is a number of bytes", field=name, got=repr(size)[:40])
            if tensor.data is not None:
                raise InvalidInput("a tensor has `data` or `binary_data_size`, not both", field=name)
            if size > len(tail) - at:
                raise InvalidInput(f"it says it has {size} bytes, and the body has {len(tail) - at} left", field=name)
            array = from_bytes(tail[at : at + size], tensor.datatype, tensor.shape, name)
            at += size
        add(tensors, name, array)
    if at != len(tail):
        raise InvalidInput(f"{len(tail) - at} bytes after the last tensor belong to none", field="body")
    return tensors


def add(tensors: dict[str, Any], name: str, array: Any) -> None:
    """Keep a tensor. Raises ``InvalidInput`` when there is one of that name."""
    if name in tensors:
        raise InvalidInput("each input is sent once", field=name)
    tensors[name] = array


def _wanted(output: _Output, binary: bool) -> Wanted:
    if output.parameters:
        check_output(output.parameters, output.name)
        said = _flag(output.parameters, "binary_data", output.name)
        binary = binary if said is None else said
    return Wanted(output.name, binary)


def check_output(parameters: Mapping[str, Any], name: str) -> None:
    """Refuse what an output cannot be asked for here. Raises ``InvalidInput``."""
    refuse_shared_memory(parameters, name)
    if parameters.get("classification"):
        raise InvalidInput("the classification extension is not spoken here", field=name, next_step="ask for the tensor and sort it")


def refuse_shared_memory(parameters: Mapping[str, Any], name: str) -> None:
    """Raises ``InvalidInput`` for a tensor that is said to be in shared memory."""
    if "shared_memory_region" in parameters:
        raise InvalidInput("shared memory is not spoken here", field=name, next_step="send the tensor's bytes")


def read_parameters(parameters: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Of a request's parameters: its timeout in seconds, and its key.

    ``timeout`` is in microseconds, 0 being none. ``priority`` says nothing here, since there are no levels. Others are the model's own
    affair in this protocol, and no release reads any. Raises ``InvalidInput``; sequences are refused.
    """
    if parameters.get("sequence_id") or parameters.get("sequence_start") or parameters.get("sequence_end"):
        raise InvalidInput(
            "releases keep no state between requests, so there are no sequences",
            field="sequence_id",
            next_step="send what the model needs in each request",
        )
    timeout_us = parameters.get("timeout")
    if timeout_us is not None and (type(timeout_us) is not int or not 0 <= timeout_us <= MAX_TIMEOUT_US):
        raise InvalidInput("a timeout is a whole number of microseconds", field="timeout", got=repr(timeout_us)[:40])
    key = parameters.get("key")
    if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 200):
        raise InvalidInput("a key is text of 1 to 200 characters", field="key", got=repr(key)[:40])
    return timeout_us / 1e6 if timeout_us else None, key


def _flag(parameters: Mapping[str, Any], name: str, field: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{name} is true or false", field=field, got=repr(value)[:40])
    return value
