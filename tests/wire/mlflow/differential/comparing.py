"""What two servers answered, without what differs by nature, compared.

Taken away: ids that a server made (each becomes its kind and its place in the order of first appearance), times within the play, the
server's own URL, and the order of lists that have none (tags, params, metrics, aliases). Of an error are compared the status, the code, and
whether both messages name the same field; its words are not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from tests.wire.mlflow.differential.playing import Answer, Played

BEFORE_MS, AFTER_MS = 86_400_000, 10_000
"""How far from the play a time may be and still be called now: servers, and what they are born with, are older than a play."""
MOST_PER_ANSWER = 6
UNORDERED = frozenset(
    {"records", "tags", "params", "metrics", "aliases", "tag", "latest_versions", "experiment_ids", "request_metadata", "datasets"}
)
EXPERIMENT_KEYS = frozenset({"experiment_id", "experiment_ids"})
ID = re.compile(r"\b(m-|d-|a-|mpu-)?(?:[0-9a-f]{32}|[0-9A-HJKMNP-TV-Z]{26})\b")
GIVEN_NAME = re.compile(r"^(?:[a-z]+-[a-z]+-\d{1,4}|(?:run|model)-[a-z0-9]{6})$")
"""A name that a server makes up for a run without one."""
ISO = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$")
QUOTED = re.compile(r"['\"`]([A-Za-z_][A-Za-z0-9_.\[\]]*)['\"`]")
FIELDS = frozenset(
    [
        "alias",
        "aliases",
        "artifact_uri",
        "created_time_ms",
        "dataset",
        "dataset_id",
        "dataset_ids",
        "datasets",
        "description",
        "digest",
        "end_time",
        "experiment_id",
        "experiment_ids",
        "experiment_name",
        "filter",
        "filter_string",
        "key",
        "max_results",
        "metric_key",
        "metrics",
        "model_id",
        "model_name",
        "model_type",
        "models",
        "name",
        "new_name",
        "order_by",
        "page_token",
        "params",
        "path",
        "profile",
        "profile_type",
        "run_id",
        "run_ids",
        "run_uuid",
        "run_view_type",
        "schema",
        "source",
        "source_type",
        "stage",
        "start_step",
        "status",
        "step",
        "storage_location",
        "tag",
        "tags",
        "timestamp",
        "trace_id",
        "trace_ids",
        "request_id",
        "value",
        "version",
        "view_type",
        "end_step",
        "start_time",
        "new_lifecycle_stage",
        "user_id",
        "lifecycle_stage",
        "artifact_location",
        "context",
        "model_json",
        "run_link",
        "run_name",
        "inputs",
        "outputs",
    ]
)


class Unlike(NamedTuple):
    """One place where two answers differ. ``where`` is such as ``status`` or ``body.run.info.status``."""

    step: int
    request: str
    where: str
    real: Any
    ours: Any


def unlike(real: Played, ours: Played) -> Iterator[Unlike]:
    """Every difference, step by step, at most a few of each answer."""
    theirs, own = Plain(real), Plain(ours)
    for number, step in enumerate(real.case.steps):
        request = f"{step.method} {step.path}"
        for where, a, b in islice(_answers(theirs, real.answers[number], own, ours.answers[number]), MOST_PER_ANSWER):
            yield Unlike(number, request, where, a, b)


def _answers(theirs: Plain, real: Answer, own: Plain, ours: Answer) -> Iterator[tuple[str, Any, Any]]:
    if real.status != ours.status:
        yield "status", _said(real), _said(ours)
        return
    if real.status < 400:
        if real.kind != ours.kind:
            yield "kind", real.kind, ours.kind
        yield from compared(theirs.of(real.body), own.of(ours.body), "body")
        return
    if not (isinstance(real.body, dict) and "error_code" in real.body):
        return  # a page for people: its status is all that a client sees
    if not (isinstance(ours.body, dict) and "error_code" in ours.body):
        yield "body", _said(real), _said(ours)
        return
    for name in sorted((real.body.keys() | ours.body.keys()) - {"message"}):
        a, b = real.body.get(name, ABSENT), ours.body.get(name, ABSENT)
        if a != b:
            yield f"body.{name}", _said(real) if name == "error_code" else a, _said(ours) if name == "error_code" else b
    field = named_field(str(real.body.get("message")))
    if field is not None and not re.search(rf"\b{re.escape(field)}\b", str(ours.body.get("message"))):
        yield "field", str(real.body.get("message"))[:300], str(ours.body.get("message"))[:300]


def named_field(message: str) -> str | None:
    """The first field of the protocol that a message names in quotes."""
    for word in QUOTED.findall(message.partition("Valid ")[0]):  # a list of what is valid follows
        last = re.sub(r"\[\d*\]", "", word).rpartition(".")[2]
        if last in FIELDS:
            return str(last)
    return None


def _said(answer: Answer) -> str:
    if isinstance(answer.body, dict) and "error_code" in answer.body:
        return f"{answer.status} {answer.body['error_code']}: {str(answer.body.get('message'))[:240]}"
    return f"{answer.status} {json.dumps(answer.body)[:240]}"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def compared(real: Any, ours: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The places where two plain values differ; a place in a list is written ``[]``, so that a pattern fits every item."""
    if isinstance(real, dict) and isinstance(ours, dict):
        for name in sorted(real.keys() | ours.keys()):
            a, b = real.get(name, ABSENT), ours.get(name, ABSENT)
            if a is ABSENT or b is ABSENT:
                yield f"{where}.{name}", a, b
            else:
                yield from compared(a, b, f"{where}.{name}")
    elif isinstance(real, list) and isinstance(ours, list):
        if len(real) != len(ours):
            yield f"{where}.length", real, ours
            return
        for a, b in zip(real, ours, strict=True):
            yield from compared(a, b, f"{where}[]")
    elif isinstance(real, bool) != isinstance(ours, bool) or isinstance(real, str) != isinstance(ours, str) or not _same(real, ours):
        yield where, real, ours


def _same(real: Any, ours: Any) -> bool:
    if isinstance(real, float) and isinstance(ours, float) and math.isnan(real) and math.isnan(ours):
        return True
    return bool(real == ours)


class Plain:
    """Takes away what is one server's own. Its memory is one play's: the first run id seen is ``<id 1>`` there, and so on."""

    def __init__(self, played: Played) -> None:
        self._url = played.url
        self._window = range(played.began_ms - BEFORE_MS, played.ended_ms + AFTER_MS)
        self._names: dict[str, str] = {}
        self._experiments = {value: f"<{name}>" for name, value in played.bound.items() if name.startswith("exp") and value != "0"}
        self._made = {str(answer.body.get("experiment_id")) for answer in played.answers if isinstance(answer.body, dict)}

    def of(self, value: Any, key: str = "") -> Any:
        """``value``, plain."""
        if isinstance(value, dict):
            return {self._text(name, ""): self.of(item, name) for name, item in sorted(value.items())}
        if isinstance(value, list):
            if key in UNORDERED:
                value = sorted(value, key=_order)
            return [self.of(item, key) for item in value]
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self._now(value):
            return "<now>"
        return value

    def _now(self, value: float) -> bool:
        return math.isfinite(value) and int(value) in self._window

    def _text(self, text: str, key: str) -> str:
        if key in EXPERIMENT_KEYS and (text in self._experiments or text in self._made):
            return self._experiments.setdefault(text, f"<made {len(self._experiments)}>")
        if key == "next_page_token" and text:
            return "<page>"  # what is in it is the server's own
        if text.isdigit() and len(text) < 20 and (self._now(int(text)) or self._now(int(text) / 1e6)):
            return "<now>"
        if ISO.match(text) and self._now(datetime.fromisoformat(text).timestamp() * 1000):
            return "<now>"
        if GIVEN_NAME.match(text):
            return "<made up>"
        text = text.replace(self._url, "<url>")
        if "mlflow-artifacts:/" in text:
            text = re.sub(r"(mlflow-artifacts:/)(\d+)\b", lambda found: found[1] + self._experiments.get(found[2], found[2]), text)
        elif text[:1] + text[-1:] in ("{}", "[]"):  # JSON within a string: tags hold such
            try:
                return "json " + json.dumps(self.of(json.loads(text), key), sort_keys=True)
            except ValueError:
                pass
        return ID.sub(self._name, text)

    def _name(self, found: re.Match[str]) -> str:
        if found[0] not in self._names:
            self._names[found[0]] = f"<{found[1] or ''}id {len(self._names) + 1}>"
        return self._names[found[0]]


def _order(item: Any) -> str:
    if isinstance(item, dict):
        return json.dumps(
            [item.get("key"), item.get("alias"), item.get("name"), item.get("inputs"), item.get("step"), item.get("timestamp")]
        )
    return json.dumps(item)
