"""Prompts: the protocol has them as registered models whose versions carry the text in tags; here they are a kind of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from andon.models.prompts import PromptManifest
from andon.wire.mlflow.errors import invalid

IS_PROMPT = "mlflow.prompt.is_prompt"
TEXT = "mlflow.prompt.text"
TYPE = "_mlflow_prompt_type"
RESPONSE_FORMAT = "_mlflow_prompt_response_format"
SETTINGS = "_mlflow_prompt_model_config"
FIXED = frozenset({IS_PROMPT, TEXT, TYPE, RESPONSE_FORMAT, SETTINGS})
"""Tags of a version that its manifest is made of, so they cannot be set later."""
_PLACEHOLDERS = frozenset({"dummy-source", "prompt-template"})


def is_prompt(tags: Mapping[str, str]) -> bool:
    """Whether these tags say so."""
    return tags.get(IS_PROMPT, "false").lower() == "true"


def check_prompt_source(source: str) -> None:
    """Raise ``WireError`` for a source other than the clients' placeholders: a prompt has no files."""
    if source not in _PLACEHOLDERS:
        raise invalid(f"Invalid prompt source: '{source[:300]}'. Prompt sources must use an MLflow placeholder.")


def prompt_manifest(tags: Mapping[str, str]) -> PromptManifest:
    """The manifest that a version's tags describe. Raises ``WireError`` naming the tag that is wrong."""
    text = tags.get(TEXT, "")
    template: Any = text
    if tags.get(TYPE) == "chat":
        template = _json(TEXT, text)
        if not isinstance(template, list) or not all(isinstance(part, dict) for part in template):
            raise invalid(f"Invalid value for tag '{TEXT}': a chat prompt is a list of messages.")
    return PromptManifest(
        type="chat" if tags.get(TYPE) == "chat" else "text",
        template=template,
        response_format=_json(RESPONSE_FORMAT, tags.get(RESPONSE_FORMAT)),
        settings=_json(SETTINGS, tags.get(SETTINGS)),
    )


def _json(key: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        raise invalid(f"Invalid value for tag '{key}': it is not JSON.") from None
