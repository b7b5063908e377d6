"""How messages are read: every spelling that the protocol's server takes, and nothing of the caller's own keys changed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.wire.mlflow.errors import WireError
from andon.wire.mlflow.messages import SEARCHED_WHOLE_BYTES, from_body, from_query


class Part(msgspec.Struct):
    key: str | None = None
    model_id: str | None = None


class Message(msgspec.Struct):
    run_id: str | None = None
    max_results: int | None = None
    value: float | str | None = None
    parts: list[Part] | None = None
    free_form: dict[str, str] | None = None
    on: bool | None = None


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


@given(
    st.fixed_dictionaries({}, optional={"run_id": st.text(), "max_results": st.integers(0, 2**62), "value": st.floats(allow_nan=False)}),
    st.data(),
)
def test_property_every_spelling_means_the_same(fields: dict[str, Any], data: st.DataObject) -> None:
    spelled = {}
    for name, value in fields.items():
        chosen = data.draw(st.sampled_from([name, _camel(name)]))
        spelled[chosen] = (
            data.draw(st.sampled_from([value, str(value), float(value)])) if name == "max_results" and value < 2**53 else value
        )
    made = from_body(json.dumps(spelled | {"unknown": [1], "parts": None}).encode(), Message)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize("size", [0, SEARCHED_WHOLE_BYTES])
def test_parts_are_spelled_as_the_message_is(size: int) -> None:
    body = json.dumps({"runId": "r", "parts": [{"key": "a" + "b" * size, "modelId": "m"}]}).encode()
    assert from_body(body, Message).parts == [Part("a" + "b" * size, "m")]


def test_a_callers_own_keys_stay() -> None:
    assert from_body(b'{"runId": "r", "freeForm": {"userId": "a", "user_id": "b"}}', Message).free_form == {"userId": "a", "user_id": "b"}


def test_nulls_are_absent_and_an_empty_body_is_an_empty_message() -> None:
    assert from_body(b'{"runId": null, "parts": [{"key": null}]}', Message) == Message(parts=[Part()])
    for body in (b"", b" \n", b"null", b"{}"):
        assert from_body(body, Message) == Message()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b'{"run_id": 5}', "INVALID_PARAMETER_VALUE", "Invalid value 5 for parameter 'run_id' supplied:  Hint: Value was of type 'int'."),
        (b'{"maxResults": 1.5}', "INVALID_PARAMETER_VALUE", "Invalid value 1.5 for parameter 'max_results' supplied"),
        (b'{"parts": [{"key": 5}]}', "INVALID_PARAMETER_VALUE", "Invalid value for parameter 'parts[0].key'"),
        (
            b'{"run_id": "a", "runId": "a"}',
            "INVALID_PARAMETER_VALUE",
            "Request specifies both 'run_id' and 'runId'; provide only one of them.",
        ),
        (b'{"run_id": ', "BAD_REQUEST", "not JSON"),
        (b'{"run_id": "\xff"}', "BAD_REQUEST", "not JSON"),
        (b"[" * 100_000, "BAD_REQUEST", "not JSON"),
        (b"[]", "BAD_REQUEST", "not a JSON object"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, code: str, said: str) -> None:
    with pytest.raises(WireError) as caught:
        from_body(body, Message)
    assert caught.value.code == code
    assert said in caught.value.message


def test_queries_repeat_lists_and_know_booleans() -> None:
    class Query(msgspec.Struct):
        run_ids: list[str] | None = None
        on: bool | None = None
        max_results: int | None = None

    made = from_query({"run_ids": ["a", "b"], "on": ["true"], "maxResults": ["5", "6"], "unknown": ["x"]}, Query)
    assert made == Query(["a", "b"], True, 5)
