"""The gRPC messages of the protocol, made from a table when a gRPC port is opened; no generated code.

They live in a descriptor pool of their own, so that a client's generated messages of the same names may be in the same process. Names
and numbers of fields are the protocol's: ``inference.GRPCInferenceService`` as Triton 2.x and KServe speak it, and of Triton's
``ModelConfig`` the fields that are filled here. Fields that are not in the table are skipped when read, as protobuf does.
"""

from __future__ import annotations

from typing import Any

from andon.wire.openinference.datatypes import DATATYPES

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# "NAME=NUMBER TYPE"; `[]` is repeated, `{}` a map from text, `|` a member of the message's one choice.
_FIELDS: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1 bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready=1 bool",
    "ModelReadyRequest": "name=1 string, version=2 string",
    "ModelReadyResponse": "ready=1 bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name=1 string, version=2 string, extensions=3 string[]",
    "ModelMetadataRequest": "name=1 string, version=2 string",
    "ModelMetadataResponse": (
        "name=1 string, versions=2 string[], platform=3 string, "
        "inputs=4 ModelMetadataResponse.TensorMetadata[], outputs=5 ModelMetadataResponse.TensorMetadata[]"
    ),
    "ModelMetadataResponse.TensorMetadata": "name=1 string, datatype=2 string, shape=3 int64[]",
    "InferParameter": "bool_param=1 bool|, int64_param=2 int64|, string_param=3 string|, double_param=4 double|, uint64_param=5 uint64|",
    "InferTensorContents": (
        "bool_contents=1 bool[], int_contents=2 int32[], int64_contents=3 int64[], uint_contents=4 uint32[], "
        "uint64_contents=5 uint64[], fp32_contents=6 float[], fp64_contents=7 double[], bytes_contents=8 bytes[]"
    ),
    "ModelInferRequest": (
        "model_name=1 string, model_version=2 string, id=3 string, parameters=4 InferParameter{}, "
        "inputs=5 ModelInferRequest.InferInputTensor[], outputs=6 ModelInferRequest.InferRequestedOutputTensor[], "
        "raw_input_contents=7 bytes[]"
    ),
    "ModelInferRequest.InferInputTensor": (
        "name=1 string, datatype=2 string, shape=3 int64[], parameters=4 InferParameter{}, contents=5 InferTensorContents"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 string, parameters=2 InferParameter{}",
    "ModelInferResponse": (
        "model_name=1 string, model_version=2 string, id=3 string, parameters=4 InferParameter{}, "
        "outputs=5 ModelInferResponse.InferOutputTensor[], raw_output_contents=6 bytes[]"
    ),
    "ModelInferResponse.InferOutputTensor": (
        "name=1 string, datatype=2 string, shape=3 int64[], parameters=4 InferParameter{}, contents=5 InferTensorContents"
    ),
    "ModelStreamInferResponse": "error_message=1 string, infer_response=2 ModelInferResponse",
    "ModelConfigRequest": "name=1 string, version=2 string",
    "ModelConfigResponse": "config=1 ModelConfig",
    "ModelConfig": (
        "name=1 string, platform=2 string, backend=17 string, version_policy=3 ModelVersionPolicy, max_batch_size=4 int32, "
        "input=5 ModelInput[], output=6 ModelOutput[], parameters=14 ModelParameter{}"
    ),
    "ModelVersionPolicy": "specific=3 ModelVersionPolicy.Specific",
    "ModelVersionPolicy.Specific": "versions=1 int64[]",
    "ModelInput": "name=1 string, data_type=2 DataType, dims=4 int64[], optional=8 bool",
    "ModelOutput": "name=1 string, data_type=2 DataType, dims=3 int64[]",
    "ModelParameter": "string_value=1 string",
    "ModelStatisticsRequest": "name=1 string, version=2 string",
    "StatisticDuration": "count=1 uint64, ns=2 uint64",
    "InferStatistics": (
        "success=1 StatisticDuration, fail=2 StatisticDuration, queue=3 StatisticDuration, compute_input=4 StatisticDuration, "
        "compute_infer=5 StatisticDuration, compute_output=6 StatisticDuration, cache_hit=7 StatisticDuration, "
        "cache_miss=8 StatisticDuration"
    ),
    "InferBatchStatistics": (
        "batch_size=1 uint64, compute_input=2 StatisticDuration, compute_infer=3 StatisticDuration, compute_output=4 StatisticDuration"
    ),
    "MemoryUsage": "type=1 string, id=2 int64, byte_size=3 uint64",
    "ModelStatistics": (
        "name=1 string, version=2 string, last_inference=3 uint64, inference_count=4 uint64, execution_count=5 uint64, "
        "inference_stats=6 InferStatistics, batch_stats=7 InferBatchStatistics[], memory_usage=8 MemoryUsage[]"
    ),
    "ModelStatisticsResponse": "model_stats=1 ModelStatistics[]",
    "ModelRepositoryParameter": "bool_param=1 bool|, int64_param=2 int64|, string_param=3 string|, bytes_param=4 bytes|",
    "RepositoryIndexRequest": "repository_name=1 string, ready=2 bool",
    "RepositoryIndexResponse": "models=1 RepositoryIndexResponse.ModelIndex[]",
    "RepositoryIndexResponse.ModelIndex": "name=1 string, version=2 string, state=3 string, reason=4 string",
    "RepositoryModelLoadRequest": "repository_name=1 string, model_name=2 string, parameters=3 ModelRepositoryParameter{}",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name=1 string, model_name=2 string, parameters=3 ModelRepositoryParameter{}",
    "RepositoryModelUnloadResponse": "",
    "SharedMemoryRequest": "name=1 string",
    "SharedMemoryResponse": "",
    "TraceSettingRequest": "settings=1 TraceSettingRequest.SettingValue{}, model_name=2 string",
    "TraceSettingRequest.SettingValue": "value=1 string[]",
    "TraceSettingResponse": "settings=1 TraceSettingResponse.SettingValue{}",
    "TraceSettingResponse.SettingValue": "value=1 string[]",
    "LogSettingsRequest": "settings=1 LogSettingsRequest.SettingValue{}",
    "LogSettingsRequest.SettingValue": "bool_param=1 bool|, uint32_param=2 uint32|, string_param=3 string|",
    "LogSettingsResponse": "settings=1 LogSettingsResponse.SettingValue{}",
    "LogSettingsResponse.SettingValue": "bool_param=1 bool|, uint32_param=2 uint32|, string_param=3 string|",
}
# Numbers of google.protobuf.FieldDescriptorProto
_TYPES = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


def messages() -> dict[str, Any]:
    """The classes of the messages, by name (``ModelInferRequest``)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="andon/open_inference.proto", package=PACKAGE, syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    enum.value.add(name="TYPE_INVALID", number=0)
    for kind in DATATYPES.values():
        enum.value.add(name=kind.config_name, number=kind.config)
    made: dict[str, Any] = {}
    for name, fields in _FIELDS.items():
        outer, _, inner = name.partition(".")
        message = made[outer].nested_type.add(name=inner) if inner else file.message_type.add(name=outer)
        made[name] = message
        for field in filter(None, fields.split(", ")):
            _add(message, name, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _FIELDS}


def _add(message: Any, owner: str, said: str) -> None:
    """One field of the table as a descriptor."""
    name, _, kind = said.partition(" ")
    name, _, number = name.partition("=")
    field = message.field.add(name=name, number=int(number), label=_REPEATED if kind.endswith(("[]", "{}")) else _OPTIONAL)
    if kind.endswith("{}"):
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_OPTIONAL, type=_TYPES["string"])
        _of(entry.field.add(name="value", number=2, label=_OPTIONAL), kind[:-2])
        _of(field, f"{owner}.{entry.name}")
        return
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    _of(field, kind.removesuffix("[]").removesuffix("|"))


def _of(field: Any, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type = _ENUM if kind == "DataType" else _MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
