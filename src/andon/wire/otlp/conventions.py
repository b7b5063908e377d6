"""What attributes are called: OpenTelemetry's ``gen_ai.*``, OpenInference, Traceloop and older names, and MLflow's own.

For each column the first name that is there wins. Sources: the OpenTelemetry GenAI semantic conventions 1.44 and their predecessors,
OpenInference 0.1.42, Traceloop's semantic conventions 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MODEL = (
    "mlflow.llm.model",
    "gen_ai.response.model",
    "gen_ai.request.model",
    "llm.response.model_name",
    "llm.model_name",
    "llm.request.model_name",
    "embedding.model_name",
    "reranker.model_name",
    "langfuse.observation.model.name",
)
PROVIDER = ("mlflow.llm.provider", "gen_ai.provider.name", "llm.provider", "llm.system", "gen_ai.system")
OPERATION = ("gen_ai.operation.name", "llm.request.type", "ai.operationId")
INPUT_TOKENS = ("gen_ai.usage.input_tokens", "llm.token_count.prompt", "gen_ai.usage.prompt_tokens")
OUTPUT_TOKENS = ("gen_ai.usage.output_tokens", "llm.token_count.completion", "gen_ai.usage.completion_tokens")
TOTAL_TOKENS = ("llm.token_count.total", "llm.usage.total_tokens", "gen_ai.usage.total_tokens")
CACHE_READ_TOKENS = (
    "gen_ai.usage.cache_read.input_tokens",
    "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_input",
    "gen_ai.usage.cache_read_input_tokens",
)
CACHE_WRITE_TOKENS = (
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "llm.token_count.prompt_details.cache_write",
    "gen_ai.usage.cache_creation_input_tokens",
)
SESSION = ("session.id", "gen_ai.conversation.id", "traceloop.association.properties.session_id", "langfuse.session.id")
USER = ("user.id", "enduser.id", "gen_ai.user", "llm.user", "traceloop.association.properties.user_id", "langfuse.user.id")
INPUTS = (
    "mlflow.spanInputs",
    "gen_ai.input.messages",
    "gen_ai.tool.call.arguments",
    "input.value",
    "llm.prompts",
    "traceloop.entity.input",
    "langfuse.observation.input",
    "lmnr.span.input",
    "ai.prompt",
    "gcp.vertex.agent.llm_request",
)
OUTPUTS = (
    "mlflow.spanOutputs",
    "gen_ai.output.messages",
    "gen_ai.tool.call.result",
    "output.value",
    "traceloop.entity.output",
    "langfuse.observation.output",
    "lmnr.span.output",
    "ai.response.text",
    "gcp.vertex.agent.llm_response",
)
USAGE = "mlflow.chat.tokenUsage"
SPAN_TYPE = "mlflow.spanType"
COST = ("llm.cost.total",)
_TYPES = {
    "gen_ai.operation.name": {
        "chat": "CHAT_MODEL",
        "create_agent": "AGENT",
        "embeddings": "EMBEDDING",
        "execute_tool": "TOOL",
        "generate_content": "LLM",
        "invoke_agent": "AGENT",
        "invoke_workflow": "WORKFLOW",
        "retrieval": "RETRIEVER",
        "text_completion": "LLM",
        "response": "LLM",
    },
    "openinference.span.kind": {
        "LLM": "LLM",
        "CHAIN": "CHAIN",
        "TOOL": "TOOL",
        "RETRIEVER": "RETRIEVER",
        "RERANKER": "RERANKER",
        "EMBEDDING": "EMBEDDING",
        "AGENT": "AGENT",
        "GUARDRAIL": "GUARDRAIL",
        "EVALUATOR": "EVALUATOR",
    },
    "traceloop.span.kind": {"workflow": "WORKFLOW", "task": "TASK", "agent": "AGENT", "tool": "TOOL"},
}


def first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first name that is there, or None."""
    for name in names:
        if name in attributes:
            return attributes[name]
    return None


def text(attributes: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first value that is a text with something in it."""
    for name in names:
        value = attributes.get(name)
        if value and isinstance(value, str):
            return value
    return None


def count(attributes: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first value that is a number of things; a text of digits is one too."""
    for name in names:
        if name in attributes:
            number = whole(attributes[name])
            if number is not None:
                return number
    return None


def whole(value: Any) -> int | None:
    """``value`` as a whole number from 0 to 2^63, or None.

    >>> whole("12"), whole(12.0), whole(True), whole(-1)
    (12, 12, None, None)
    """
    texted = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
    if texted or (type(value) is float and value.is_integer()):
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def span_type(attributes: Mapping[str, Any]) -> str | None:
    """The span's type in MLflow's words, from whichever convention says it."""
    said = attributes.get(SPAN_TYPE)
    if isinstance(said, str) and said and said != "UNKNOWN":
        return said
    for name, types in _TYPES.items():
        if name in attributes:
            value = attributes[name]
            found = types.get(value) if isinstance(value, str) else None
            if found is not None:
                return found
    return said if isinstance(said, str) and said else None


def usage(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """MLflow's own record of tokens, which is one attribute: a map, or a text of JSON."""
    said = attributes.get(USAGE)
    if isinstance(said, str):
        try:
            said = msgspec.json.decode(said)
        except msgspec.DecodeError:
            return None
    return said if isinstance(said, dict) else None
