"""Where predictions are asked for over HTTP: how a body is read there, and what an answer and a refusal look like.

An endpoint knows nothing of how bytes come and go. Both ways past it use the same one: the short way of ``exchange``, and the long way of
``ServingApp`` for what does not fit that (compressed bodies, chunks, HTTP/1.0).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from andon.core.errors import AndonError, Unavailable
from andon.serving.asking import Query
from andon.serving.front import Front
from andon.serving.tracing import PREDICT
from andon.wire import mlflow_scoring
from andon.wire import openinference as oip

if TYPE_CHECKING:
    from andon.api.facts import Facts, Headers
    from andon.serving.loading import Loaded

JSON = (b"content-type", b"application/json")
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Endpoint(Protocol):
    """One of them. Headers are bytes as they go out: lines, each with its end."""

    packs: bool
    """Whether answers may be compressed."""

    def check(self, facts: Facts) -> None:
        """Raises the ``AndonError`` that no body could change, after it has been counted."""
        ...

    def read(self, body: bytes, facts: Facts) -> Query:
        """A request that is ready to be run. Raises ``AndonError``, after it has been counted."""
        ...

    def answered(self, query: Query, outputs: dict[str, Any]) -> tuple[bytes, bytes]:
        """The headers and the body of a good answer. Raises ``ModelFailed`` for outputs that cannot be said here."""
        ...

    def refused(self, error: AndonError, query: Query | None) -> tuple[bytes, bytes]:
        """The headers and the body of a refusal."""
        ...


class Predict:
    """``POST /predict``: rows of JSON."""

    packs = False

    def __init__(self, front: Front) -> None:
        self._front = front
        self._said: WeakKeyDictionary[Loaded, tuple[bytes, bytes]] = WeakKeyDictionary()

    def check(self, facts: Facts) -> None:
        """Nothing is wrong before the body."""

    def read(self, body: bytes, facts: Facts) -> Query:
        """See ``Endpoint``."""
        front = self._front
        release = ""
        try:
            loaded = front.loaded()
            release = loaded.address
            request = loaded.codec.decode(body)
            request_id = request.request_id or facts.id() or front.new_id()
            rows = request.rows
            return Query(
                choice=front.choose(request_id, facts.key_text(), rows=rows),
                n=len(rows),
                request_id=request_id,
                rows=rows,
                event_us=request.event_us,
                deadline_s=facts.deadline_s(),
                caller=facts.caller,
                client=facts.client_text(),
                size_bytes=len(body),
                traceparent=facts.traceparent,
                face=PREDICT,
            )
        except AndonError as error:
            front.metrics.refused(release, error.code)
            raise

    def answered(self, query: Query, outputs: dict[str, Any]) -> tuple[bytes, bytes]:
        """See ``Endpoint``."""
        loaded = query.choice.loaded
        said = self._said.get(loaded)
        if said is None:
            body = b'","release":%s,"release_digest":%s,"outputs":' % (_encode(loaded.address), _encode(loaded.digest))
            said = self._said[loaded] = lines([JSON, loaded.header]) + b"x-request-id: ", body
        name = query.request_id.encode()
        # Neither holds a character that JSON escapes, but for quotes and backslashes, which a request id may.
        quoted = name if b'"' not in name and b"\\" not in name else _encode(query.request_id)[1:-1]
        body = b"".join((b'{"request_id":"', quoted, said[1], _encode(_rows(outputs, query.n)), b"}"))
        return said[0] + name + b"\r\n", body

    def refused(self, error: AndonError, query: Query | None) -> tuple[bytes, bytes]:
        """See ``Endpoint``."""
        headers = [JSON, *retry(error)]
        if query is not None:
            headers += [query.choice.loaded.header, (b"x-request-id", query.request_id.encode())]
        else:
            with contextlib.suppress(Unavailable):
                headers.append(self._front.loaded().header)
        return lines(headers), _encode(error.envelope())


class Infer:
    """The Open Inference Protocol's ``infer`` of one path."""

    packs = True

    def __init__(self, rest: oip.Rest, name: str, version: str) -> None:
        self._rest, self._name, self._version = rest, name, version

    def check(self, facts: Facts) -> None:  # noqa: ARG002  # what is asked for is in the path
        """A wrong name needs no body."""
        self._rest.check(self._name, self._version)

    def read(self, body: bytes, facts: Facts) -> Query:
        """See ``Endpoint``."""
        return self._rest.read(self._name, self._version, body, facts.header_length, lambda: _asker(facts, len(body)))

    def answered(self, query: Query, outputs: dict[str, Any]) -> tuple[bytes, bytes]:
        """See ``Endpoint``."""
        assert isinstance(query, oip.Inference)
        headers, body = self._rest.answered(query, outputs)
        return lines(headers), body

    def refused(self, error: AndonError, query: Query | None) -> tuple[bytes, bytes]:  # noqa: ARG002  # errors name no release here
        """See ``Endpoint``."""
        return lines([JSON, *retry(error)]), oip.error_body(error)


class Invocations:
    """MLflow's ``POST /invocations``."""

    packs = True

    def __init__(self, front: Front) -> None:
        self._front = front

    def check(self, facts: Facts) -> None:
        """A type that is not read needs no body."""
        self._counted(lambda: mlflow_scoring.check_type(facts.content_type))

    def read(self, body: bytes, facts: Facts) -> Query:
        """See ``Endpoint``."""
        return self._counted(lambda: mlflow_scoring.read(self._front, body, facts.content_type, _scorer(facts)))

    def _counted(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except AndonError as error:
            self._front.metrics.refused("", error.code)
            raise

    def answered(self, query: Query, outputs: dict[str, Any]) -> tuple[bytes, bytes]:
        """See ``Endpoint``."""
        headers, body = mlflow_scoring.answered(query, outputs)
        return lines(headers), body

    def refused(self, error: AndonError, query: Query | None) -> tuple[bytes, bytes]:  # noqa: ARG002  # errors name no release here
        """See ``Endpoint``."""
        kind, body = mlflow_scoring.refused(error)
        return lines([kind, *retry(error)]), body


def _scorer(facts: Facts) -> mlflow_scoring.Asker:
    return mlflow_scoring.Asker(facts.id(), facts.key_text(), facts.deadline_s(), facts.caller, facts.client_text(), facts.traceparent)


def _asker(facts: Facts, size_bytes: int) -> oip.Asker:
    return oip.Asker(
        facts.id(), facts.key_text(), facts.deadline_s(), facts.caller, facts.client_text(), facts.length or size_bytes, facts.traceparent
    )


def _rows(lists: dict[str, list[Any]], n: int) -> list[dict[str, Any]]:
    if n == 1:
        return [{name: values[0] for name, values in lists.items()}]
    if len(lists) == 1:  # as below, in an eighth of the time
        ((name, values),) = lists.items()
        return [{name: value} for value in values]
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def retry(error: AndonError) -> Headers:
    """When to come back, for who is sent away for now."""
    return [(b"retry-after", b"%d" % error.fields.get("retry_after_s", 1))] if error.status in (429, 503) else []


def lines(headers: Headers) -> bytes:
    """Headers as they go out."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


def pairs(text: bytes) -> Headers:
    """The headers of ``lines`` again."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in text.split(b"\r\n")[:-1])]
