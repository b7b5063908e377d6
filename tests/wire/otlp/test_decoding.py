"""From OTLP's bytes to rows: every kind of value, every convention, and what cannot be kept."""

from __future__ import annotations

import gzip
import json
import math
import zlib

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from andon.core.errors import InvalidInput, TooLarge
from andon.logs.traces import ERROR, OK, tokens_of
from andon.wire.otlp import bodies
from andon.wire.otlp.bodies import parse, unpack
from andon.wire.otlp.decoding import Received, decode
from andon.wire.otlp.gathering import gather, preview
from tests.wire.otlp.spans import START_NS, request, span_id, trace_id

PROTOBUF = "application/x-protobuf"


def decoded(*spans: dict[str, object], resource: dict[str, object] | None = None) -> list[Received]:
    received, refused = decode(request(*spans, resource=resource, scope="sc"), lambda _: 7, 1_000)
    assert not refused.spans
    return received


def test_a_span_keeps_all_it_came_with() -> None:
    message = request(
        {
            "n": 2,
            "parent": 1,
            "kind": 3,
            "status": (2, "boom"),
            "attributes": {"s": "é", "i": -(2**63), "f": 0.1, "b": True, "l": [1, {"k": []}]},
        },
        resource={"service.name": "svc"},
        scope="sc",
    )
    span = message.resource_spans[0].scope_spans[0].spans[0]
    span.events.add(name="ev", time_unix_nano=5).attributes.add(key="z").value.int_value = 1
    span.links.add(trace_id=trace_id(9), span_id=span_id(8), trace_state="k=v")
    span.trace_state, span.dropped_events_count = "a=b", 4
    [one], _ = decode(message, lambda _: 7, 1_000)
    row = one.row
    assert (row.trace_id, row.span_id, row.parent_id) == (f"{1:032x}", f"{2:016x}", f"{1:016x}")
    assert (row.kind, row.status, row.status_message, row.experiment, row.service) == ("client", "error", "boom", 7, "svc")
    assert (row.event_us, row.start_ns, row.end_ns) == (START_NS // 1000 + 2_000, START_NS + 2_000_000, START_NS + 50_000_000)
    assert json.loads(row.attributes) == {"s": "é", "i": -(2**63), "f": 0.1, "b": True, "l": [1, {"k": []}]}
    assert json.loads(row.events or "") == [{"name": "ev", "time_ns": 5, "attributes": {"z": 1}}]
    assert json.loads(row.links or "") == [{"trace_id": f"{9:032x}", "span_id": f"{8:016x}", "trace_state": "k=v"}]
    assert json.loads(row.extra or "") == {"trace_state": "a=b", "dropped_events": 4}
    assert (json.loads(row.resource or ""), json.loads(row.scope or "")) == ({"service.name": "svc"}, {"name": "sc"})


def test_what_json_has_no_word_for_is_named() -> None:
    [one] = decoded({"attributes": {"n": math.nan, "p": math.inf, "m": -math.inf, "b": b"\0\xff"}})
    assert json.loads(one.row.attributes) == {"n": "NaN", "p": "Infinity", "m": "-Infinity", "b": "AP8="}


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (
            {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "a", "gen_ai.response.model": "b"}
            | {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3},
            ("CHAT_MODEL", "openai", "b", 7, 3, 10),
        ),
        (
            {"openinference.span.kind": "LLM", "llm.provider": "x", "llm.model_name": "m", "llm.token_count.prompt": 4}
            | {"llm.token_count.completion": 5, "llm.token_count.total": 11},
            ("LLM", "x", "m", 4, 5, 11),
        ),
        ({"traceloop.span.kind": "tool", "gen_ai.system": "s", "gen_ai.usage.prompt_tokens": "12"}, ("TOOL", "s", None, 12, None, None)),
        (
            {"mlflow.spanType": "RETRIEVER", "mlflow.chat.tokenUsage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}},
            ("RETRIEVER", None, None, 1, 2, 3),
        ),
        ({"mlflow.chat.tokenUsage": '{"input_tokens": 1}', "mlflow.llm.model": "m"}, (None, None, "m", 1, None, None)),
        ({"mlflow.spanType": "UNKNOWN", "openinference.span.kind": "AGENT"}, ("AGENT", None, None, None, None, None)),
        (
            {"gen_ai.usage.input_tokens": -1, "gen_ai.request.model": 5, "mlflow.chat.tokenUsage": "no"},
            (None, None, None, None, None, None),
        ),
    ],
)
def test_every_convention_comes_to_the_same_columns(attributes: dict[str, object], said: tuple[object, ...]) -> None:
    [one] = decoded({"attributes": attributes})
    row = one.row
    assert (row.type, row.provider, row.model, row.input_tokens, row.output_tokens, row.total_tokens) == said


@pytest.mark.parametrize("bad", [{"trace": b"\0" * 16}, {"trace": b"short"}, {"n": b"\0" * 8}, {"n": b"x"}, {"start": 2**64 - 1}])
def test_spans_that_cannot_be_kept_are_counted_and_the_rest_is_kept(bad: dict[str, object]) -> None:
    received, refused = decode(request(bad, {"n": 3}), lambda _: 0, 1)
    assert [one.row.span_id for one in received] == [f"{3:016x}"]
    assert refused.spans == 1
    assert refused.why


def test_a_span_without_a_start_is_put_where_it_arrived() -> None:
    [one] = decoded({"start": 0})
    assert (one.row.event_us, one.row.start_ns) == (1_000, 0)


def test_seeds_of_a_batch() -> None:
    received = decoded(
        {"n": 1, "attributes": {"input.value": '{"messages":[{"role":"user","content":"hi"}]}', "output.value": "out", "session.id": "S"}},
        {"n": 2, "parent": 1, "attributes": {"llm.token_count.prompt": 10}},
        {"n": 3, "parent": 2},
        {"n": 4, "parent": 3, "attributes": {"llm.token_count.prompt": 4, "user.id": "U"}},
        {"trace": 2, "n": 5, "status": (2, ""), "attributes": {"mlflow.traceTag.mlflow.traceName": "named", "mlflow.traceTag.k": "v"}},
        {"trace": 3, "n": 6, "parent": 9},
        resource={"service.name": "svc", "n": 3, "telemetry.sdk.name": "x", "mlflow.trace.spansLocation": "elsewhere"},
    )
    first, second, third = gather(received)
    assert (first.id, first.experiment, first.state, first.session, first.user) == (f"tr-{1:032x}", 7, OK, "S", "U")
    assert (first.request_preview, first.response_preview) == ("hi", '"out"')
    assert first.tags == {"service.name": "svc", "n": "3"}
    assert tokens_of(first.usage) == {"input_tokens": 10}  # what is below it, two levels down, is in it already
    assert (second.state, second.name, second.tags["k"]) == (ERROR, "named", "v")
    assert (third.state, third.request_preview) == (None, None)  # its root has not come


def test_previews() -> None:
    assert (
        preview({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]}]}, "user")
        == "t"
    )
    assert preview({"choices": [{"message": {"role": "assistant", "content": "ok"}}]}, "assistant") == "ok"
    assert preview({"request": {"input": [{"role": "user", "content": "deep"}]}}, "user") == "deep"
    assert preview({"x": "é"}, "user") == '{"x": "é"}'
    assert preview("x" * 2_000, "user") == '"' + "x" * 996 + "..."
    assert preview(None, "user") is None


def test_json_is_read_as_senders_write_it() -> None:
    message = request({"n": 2, "parent": 1, "attributes": {"i": 5, "s": "x"}, "status": (1, "")}, resource={"service.name": "svc"})
    value = MessageToDict(message)
    span = value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span |= {"traceId": f"{1:032x}", "spanId": f"{2:016x}", "parentSpanId": f"{1:016X}", "kind": 1, "unknownField": {"a": 1}}
    span["status"]["code"] = 1
    span["startTimeUnixNano"] = int(span["startTimeUnixNano"])
    span["links"] = [{"traceId": f"{3:032x}", "spanId": f"{4:016x}"}]
    message.resource_spans[0].scope_spans[0].spans[0].links.add(trace_id=trace_id(3), span_id=span_id(4))
    assert parse(json.dumps(value).encode(), "application/json") == message


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"resourceSpans": 5}',
        b"null",
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz"}]}]}]}',
        b"[" * 5000,
    ],
)
def test_json_that_is_none_of_ours(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body, "application/json")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_bad_input(body: bytes) -> None:
    try:
        message = parse(body, PROTOBUF)
    except InvalidInput:
        return
    decode(message, lambda _: 0, 1)


def test_bodies_are_unpacked_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = b"some text " * 50
    bare = zlib.compressobj(wbits=-15)
    assert unpack(plain, "") == unpack(plain, "identity") == plain
    assert unpack(gzip.compress(plain), " GZIP ") == unpack(gzip.compress(plain[:99]) + gzip.compress(plain[99:]), "gzip") == plain
    assert unpack(zlib.compress(plain), "deflate") == unpack(bare.compress(plain) + bare.flush(), "deflate") == plain
    for wrong, encoding in ((b"x", "gzip"), (gzip.compress(plain)[:-3], "gzip"), (b"\xff\xff", "deflate"), (plain, "br")):
        with pytest.raises(InvalidInput):
            unpack(wrong, encoding)
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1_000)
    with pytest.raises(TooLarge):
        unpack(gzip.compress(bytes(10_000_000)), "gzip")
