"""From rows of the span log to what the ledger keeps of their traces: times, state, previews, tags, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from andon.logs.spans import TRACE_PREFIX, SpanRow
from andon.logs.traces import ERROR, OK, TraceSeed
from andon.wire.otlp import conventions as names
from andon.wire.otlp.decoding import Received

PREVIEW_CHARACTERS = 1_000
MAX_TAG_KEY, MAX_TAG_VALUE = 250, 8_000
_TAG_PREFIX = "mlflow.traceTag."
NAME_TAG = "mlflow.traceName"


def gather(received: Sequence[Received]) -> list[TraceSeed]:
    """One seed for each trace of a batch."""
    traces: dict[str, list[Received]] = {}
    for one in received:
        traces.setdefault(one.row.trace_id, []).append(one)
    return [_seed(trace_id, spans) for trace_id, spans in traces.items()]


def _seed(trace_id: str, spans: list[Received]) -> TraceSeed:
    starts = [one.row.event_us for one in spans]
    ends = [one.row.end_ns // 1000 for one in spans if one.row.end_ns]
    seed = TraceSeed(
        id=TRACE_PREFIX + trace_id,
        experiment=spans[0].row.experiment,
        first_us=min(starts),
        last_us=max(starts),
        end_us=max(ends, default=None),
    )
    with_resource = next((one.resource for one in spans if one.resource), None)
    if with_resource:
        seed.tags.update(_resource_tags(with_resource))
    for one in spans:
        row = one.row
        seed.session = seed.session or row.session
        seed.user = seed.user or row.user_id
        if row.parent_id is None:
            _root(seed, one)
    seed.usage = _usage([one.row for one in spans])
    return seed


def _root(seed: TraceSeed, one: Received) -> None:
    seed.state = ERROR if one.row.status == "error" else OK
    seed.request_preview = preview(names.first(one.attributes, names.INPUTS), "user")
    seed.response_preview = preview(names.first(one.attributes, names.OUTPUTS), "assistant")
    for key, value in one.attributes.items():
        if key.startswith(_TAG_PREFIX):
            tag = key[len(_TAG_PREFIX) :]
            if tag == NAME_TAG:
                seed.name = _text(value)
            elif 0 < len(tag) <= MAX_TAG_KEY:
                seed.tags[tag] = _text(value)[:MAX_TAG_VALUE]


def _resource_tags(resource: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: _text(value)[:MAX_TAG_VALUE]
        for key, value in resource.items()
        if 0 < len(key) <= MAX_TAG_KEY and not key.startswith(("telemetry.sdk.", "mlflow."))
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _usage(rows: Sequence[SpanRow]) -> dict[str, tuple[str | None, dict[str, int]]]:
    """The tokens that spans say, each with the nearest span above it, in this batch, that says its own."""
    parents = {row.span_id: row.parent_id for row in rows}
    said: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = {
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "total_tokens": row.total_tokens,
            "cache_read_input_tokens": row.cache_read_tokens,
            "cache_creation_input_tokens": row.cache_write_tokens,
        }
        if any(value is not None for value in counts.values()):
            said[row.span_id] = {key: value for key, value in counts.items() if value is not None}
    made: dict[str, tuple[str | None, dict[str, int]]] = {}
    for span, kept in said.items():
        above = parents[span]
        seen = {span}
        while above in parents and above not in said and above not in seen:
            seen.add(above)
            above = parents[above]
        made[span] = (above, kept)
    return made


def preview(value: Any, role: str) -> str | None:
    """The start of an input or output as a person would read it: the last message's text where it is a conversation.

    >>> preview({"messages": [{"role": "user", "content": "hello"}]}, "user")
    'hello'
    """
    if value is None:
        return None
    held, written = value, None
    if isinstance(value, str):
        with suppress(msgspec.DecodeError):
            held, written = msgspec.json.decode(value), value
    said = (_message(held, role) if isinstance(held, dict) else None) or written or spaced(value)
    return said if len(said) <= PREVIEW_CHARACTERS else said[: PREVIEW_CHARACTERS - 3] + "..."


def spaced(value: Any) -> str:
    """JSON with a space after each comma and colon, as the clients' own JSON has."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _message(held: dict[str, Any], role: str) -> str | None:
    messages = _messages(held)
    if not messages:
        return None
    found = next((one for one in reversed(messages) if one.get("role") == role), messages[-1])
    content = found.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text")]
        content = parts[0].get("text") if parts else None
    return content if isinstance(content, str) else None


def _messages(held: dict[str, Any]) -> list[dict[str, Any]]:
    for name in ("messages", "input", "output"):
        if isinstance(held.get(name), list):
            return [one for one in held[name] if _is_message(one)]
    choices = held.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict) and _is_message(choices[0].get("message")):
        return [choices[0]["message"]]
    return _messages(held["request"]) if isinstance(held.get("request"), dict) else []


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value
