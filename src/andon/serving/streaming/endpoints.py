"""Which log and topic a URL means.

=====================================  ============================================================
``log:TOPIC``                          the embedded log, in the ledger of the home folder
``redis://HOST:PORT[/DB]/STREAM``      Redis Streams (``rediss://`` with TLS)
``nats://HOST:PORT/SUBJECT``           NATS JetStream (``tls://`` with TLS)
=====================================  ============================================================

``?claim_s=30`` is after how long the messages of a consumer that went silent are given to another (brokers).
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from andon.core.errors import InvalidInput
from andon.serving.streaming.records import StreamLog
from andon.store import Store

CLAIM_S = 30.0
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_ENGINES = {"log": "log", "redis": "redis", "rediss": "redis", "nats": "nats", "tls": "nats"}
_NEXT = "write log:TOPIC, redis://HOST:PORT/STREAM or nats://HOST:PORT/SUBJECT"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A topic of a log. ``server`` is the engine's URL without topic and options; empty for the embedded log."""

    engine: str
    server: str
    topic: str
    claim_s: float = CLAIM_S

    @property
    def shown(self) -> str:
        """The URL for people and records: without credentials."""
        if self.engine == "log":
            return f"log:{self.topic}"
        parts = urlsplit(self.server)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/{self.topic}", "", ""))

    def same_log(self, other: Endpoint) -> bool:
        """Whether one connection reaches both."""
        return (self.engine, self.server) == (other.engine, other.server)

    def beside(self, topic: str) -> Endpoint:
        """Another topic of the same log."""
        return msgspec.structs.replace(self, topic=_checked(topic))


def parse(url: str) -> Endpoint:
    """Read a URL. Raises ``InvalidInput`` saying what is wrong with it.

    >>> parse("redis://127.0.0.1:6379/rides").topic
    'rides'
    >>> parse("nats://me:secret@host/rides.in?claim_s=5").shown
    'nats://host/rides.in'
    """
    scheme, _, rest = url.partition(":")
    engine = _ENGINES.get(scheme)
    if engine is None:
        raise InvalidInput("this is no stream", field="url", got=_hidden(url), next_step=_NEXT)
    if engine == "log":
        return Endpoint(engine="log", server="", topic=_checked(rest))
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"this is no stream: {error}", field="url", got=_hidden(url), next_step=_NEXT) from None
    path, _, topic = parts.path.rpartition("/")
    if not parts.hostname:
        raise InvalidInput("a broker's URL names its host", field="url", got=_hidden(url), next_step=_NEXT)
    options = dict(parse_qsl(parts.query))
    try:
        claim_s = float(options.pop("claim_s", CLAIM_S))
    except ValueError:
        raise InvalidInput("claim_s is a number of seconds", field="url", got=_hidden(url)) from None
    if options or not 0 < claim_s < 86_400:
        raise InvalidInput("the only option of a stream is claim_s, in seconds", field="url", got=_hidden(url))
    server = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    return Endpoint(engine=engine, server=server, topic=_checked(topic), claim_s=claim_s)


def open_log(store: Store, endpoint: Endpoint, *, consumer: str) -> StreamLog:
    """The log of an endpoint, not connected yet. Raises ``InvalidInput`` when its client library is not installed."""
    if endpoint.engine == "log":
        from andon.serving.streaming.embedded import EmbeddedLog

        return EmbeddedLog(store)
    try:
        if endpoint.engine == "redis":
            from andon.serving.streaming.redis_streams import RedisLog

            return RedisLog(endpoint.server, consumer=consumer, claim_s=endpoint.claim_s)
        from andon.serving.streaming.nats_jetstream import NatsLog

        return NatsLog(endpoint.server, claim_s=endpoint.claim_s)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(("faststream", "redis", "nats")):
            raise
        raise InvalidInput("brokers need their client libraries", next_step="pip install 'andon[streaming]'", missing=error.name) from None


def _checked(topic: str) -> str:
    if not _TOPIC.fullmatch(topic):
        raise InvalidInput("a topic is up to 200 letters, digits and ._:/-", field="url", got=topic[:80], next_step=_NEXT)
    return topic


def _hidden(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)[:200]
