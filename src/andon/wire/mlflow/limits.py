"""What the protocol's server takes as keys and values, and what it says of the rest."""

from __future__ import annotations

import os
import posixpath
import re
from functools import lru_cache

from andon.wire.mlflow.errors import WireError, invalid
from andon.wire.mlflow.messages import wrong_value

MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_ENTITIES = 1_000, 100, 100, 1_000
MAX_KEY, MAX_PARAM_VALUE, MAX_TAG_VALUE, MAX_EXPERIMENT_TAG_VALUE = 250, 6_000, 8_000, 20_000
MAX_EXPERIMENT_NAME = 500
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")
_KEY = re.compile(r"[/\w.\- :]*")
_CHARACTERS = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."  # as it says it
)


def check_run_id(run: str) -> None:
    """Raise ``WireError`` unless a run can have this id."""
    if not _RUN_ID.fullmatch(run):
        raise wrong_value("run_id", run)


def check_key(key: str, path: str, limit_name: str) -> None:
    """Raise ``WireError`` unless ``key`` can name a metric, param or tag: short, of these characters, and no path but its own."""
    why = _wrong_key(key)
    if why is not None:
        raise wrong_value(path, key, why)
    if len(key) > MAX_KEY:
        raise too_long(limit_name, MAX_KEY)


@lru_cache(8192)
def _wrong_key(key: str) -> str | None:
    if not _KEY.fullmatch(key):
        return _CHARACTERS
    plain = posixpath.normpath(key)
    if plain != key or plain == "." or plain.startswith(("..", "/")):
        return (
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such."
            f" This name would resolve to {plain!r}"
        )
    return None


def fitted(value: str, limit_name: str, limit: int) -> str:
    """``value``, cut to ``limit`` characters, as the protocol's server does unless ``MLFLOW_TRUNCATE_LONG_VALUES=false``."""
    if len(value) <= limit:
        return value
    if os.environ.get("MLFLOW_TRUNCATE_LONG_VALUES", "true").lower() in ("false", "0"):
        raise too_long(limit_name, limit)
    return value[:limit]


def too_long(name: str, limit: int) -> WireError:
    """What is said of text beyond its limit."""
    return invalid(f"'{name}' exceeds the maximum length of {limit} characters")


def check_batch(metrics: int, params: int, tags: int) -> None:
    """Raise ``WireError`` when a batch holds more than one request may."""
    for what, most, n in (
        ("metrics", MAX_METRICS, metrics),
        ("params", MAX_PARAMS, params),
        ("tags", MAX_TAGS, tags),
        ("metrics, params, and tags", MAX_ENTITIES, metrics + params + tags),
    ):
        if n > most:
            raise invalid(
                f"A batch logging request can contain at most {most} {what}. Got {n} {what}. Please split up {what} across multiple"
                " requests and try again."
            )
