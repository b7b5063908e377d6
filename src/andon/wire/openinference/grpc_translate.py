"""gRPC messages to requests, and answers to messages. ``kinds`` are the classes that ``messages()`` made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from andon.core.errors import InvalidInput
from andon.serving.validation import check_request_id
from andon.wire.openinference.datatypes import DATATYPES, Datatype, datatype
from andon.wire.openinference.models import Outcome
from andon.wire.openinference.requests import InferRequest, Wanted, add, check_count, check_output, read_parameters, refuse_shared_memory
from andon.wire.openinference.tensors import as_objects, check_shape, from_bytes, text, to_bytes

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Kinds = Mapping[str, Any]


def read_infer(message: Any) -> InferRequest:
    """A ``ModelInferRequest``. Its tensors are all in ``raw_input_contents``, or all in their ``contents``.

    ``binary`` says which, since the answer is given the same way. Raises ``InvalidInput`` naming the tensor.
    """
    raws = message.raw_input_contents
    inputs = message.inputs
    check_count(len(inputs), len(message.outputs), len(message.parameters))
    if raws and len(raws) != len(inputs):
        raise InvalidInput(
            "there is one of raw_input_contents for each input", field="raw_input_contents", got=len(raws), inputs=len(inputs)
        )
    tensors: dict[str, Any] = {}
    for at, tensor in enumerate(inputs):
        if tensor.parameters:
            refuse_shared_memory(tensor.parameters, tensor.name)
        if raws:
            if tensor.HasField("contents"):
                raise InvalidInput("a request has contents or raw_input_contents, not both", field=tensor.name)
            array = from_bytes(raws[at], tensor.datatype, tuple(tensor.shape), tensor.name)
        else:
            array = _from_contents(tensor)
        add(tensors, tensor.name, array)
    timeout_s = key = None
    if message.parameters:
        timeout_s, key = read_parameters(_plain(message.parameters))
    outputs = None
    if message.outputs:
        outputs = tuple(_wanted(output, bool(raws)) for output in message.outputs)
    return InferRequest(
        tensors=tensors,
        id=check_request_id(message.id) if message.id else None,
        key=key,
        timeout_s=timeout_s,
        outputs=outputs,
        binary=bool(raws),
    )


def _wanted(output: Any, binary: bool) -> Wanted:
    if output.parameters:
        check_output(_plain(output.parameters), output.name)
    return Wanted(output.name, binary)


def _plain(parameters: Any) -> dict[str, Any]:
    values = {}
    for name, parameter in parameters.items():
        which = parameter.WhichOneof("parameter_choice")
        values[name] = None if which is None else getattr(parameter, which)
    return values


def _from_contents(tensor: Any) -> Array:
    import numpy as np

    form = datatype(tensor.datatype, field=tensor.name)
    shape = tuple(tensor.shape)
    count = check_shape(shape, tensor.name)
    if form.contents is None:
        raise InvalidInput(f"{form.name} has no typed contents", field=tensor.name, next_step="send it in raw_input_contents")
    values = getattr(tensor.contents, form.contents)
    if len(values) != count:
        raise InvalidInput(f"the shape {list(tensor.shape)} does not hold {len(values)} values", field=tensor.name, contents=form.contents)
    if not form.size:
        return as_objects([text(value, f"{tensor.name}[{at}]") for at, value in enumerate(values)], np).reshape(shape)
    try:
        return np.array(values, dtype=form.numpy).reshape(shape)
    except OverflowError:
        raise InvalidInput(f"a value is out of the range of {form.name}", field=tensor.name) from None


def write_infer(kinds: Kinds, outcome: Outcome) -> Any:
    """A ``ModelInferResponse``: raw when the request was, or when an output's datatype has no typed contents."""
    loaded = outcome.loaded
    message = kinds["ModelInferResponse"](model_name=outcome.name, model_version=loaded.version, id=outcome.request_id)
    message.parameters["release"].string_param = loaded.address
    message.parameters["release_digest"].string_param = loaded.digest
    raw = any(wanted.binary or form.contents is None for wanted, form, _ in outcome.outputs)
    for wanted, form, array in outcome.outputs:
        output = message.outputs.add(name=wanted.name, datatype=form.name, shape=array.shape)
        if raw:
            message.raw_output_contents.append(to_bytes(array, form))
        else:
            getattr(output.contents, form.contents or "").extend(_values(form, array))
    return message


def _values(form: Datatype, array: Array) -> Sequence[Any]:
    items: list[Any] = array.reshape(-1).tolist()
    if form.size:
        return items
    return [b"" if item is None else item if isinstance(item, bytes) else str(item).encode() for item in items]


def write_config(kinds: Kinds, config: Mapping[str, Any]) -> Any:
    """``describing.model_config`` as a ``ModelConfigResponse``."""
    message = kinds["ModelConfigResponse"]()
    made = message.config
    made.name, made.platform, made.backend = config["name"], config["platform"], config["backend"]
    made.max_batch_size = config["max_batch_size"]
    made.version_policy.specific.versions.extend(config["version_policy"]["specific"]["versions"])
    numbers = {kind.config_name: kind.config for kind in DATATYPES.values()}
    for tensor in config["input"]:
        made.input.add(name=tensor["name"], data_type=numbers[tensor["data_type"]], dims=tensor["dims"], optional=tensor["optional"])
    for tensor in config["output"]:
        made.output.add(name=tensor["name"], data_type=numbers[tensor["data_type"]], dims=tensor["dims"])
    for name, value in config["parameters"].items():
        made.parameters[name].string_value = value["string_value"]
    return message


def fill(message: Any, values: Mapping[str, Any]) -> Any:
    """A message of our JSON, where the two have the same names: dicts are messages, lists of dicts repeated ones."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                fill(getattr(message, name).add(), item)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message
