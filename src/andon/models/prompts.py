"""The manifest of ``prompt:NAME@VERSION``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class PromptManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt's text, or its messages, with ``{{names}}`` where values go."""

    type: Literal["text", "chat"] = "text"
    template: str | list[dict[str, Any]]
    response_format: Any = None
    """The schema that an answer must have, if any."""
    settings: Any = None
    """Which model it was written for, and how that is to be called."""
