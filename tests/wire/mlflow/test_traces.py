"""Traces with the stock client: logged, read back span for span, searched, judged, tagged, linked, deleted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.wire.mlflow.servers import AndonServer


@pytest.fixture(scope="module")
def mlflow(andon_server: AndonServer, stock: None) -> Iterator[Any]:
    """The client's fluent API, pointed at Andon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports, not ours
        import mlflow as fluent

        before = fluent.get_tracking_uri()
        fluent.set_tracking_uri(andon_server.url)
        yield fluent
        fluent.flush_trace_async_logging(terminate=True)
        fluent.set_tracking_uri(before)
        fluent.tracing.reset()


@pytest.fixture
def experiment(mlflow: Any, request: pytest.FixtureRequest) -> str:
    """A fresh experiment, made the current one."""
    return str(mlflow.set_experiment(f"traces/{request.node.name}").experiment_id)


def logged(mlflow: Any) -> Any:
    """The newest trace, once it is all there."""
    mlflow.flush_trace_async_logging()
    return mlflow.get_trace(mlflow.get_last_active_trace_id())


def answer_chat(mlflow: Any) -> Any:
    """A chain with a call of a model in it, as an integration would trace it."""

    @mlflow.trace(span_type="CHAIN", attributes={"k": {"a": [1, 2.5, None, True, "é"]}})
    def answer(question: str) -> dict[str, str]:
        with mlflow.start_span("call", span_type="CHAT_MODEL") as span:
            span.set_inputs({"messages": [{"role": "user", "content": question}], "model": "gpt-4o"})
            span.set_outputs({"choices": [{"message": {"role": "assistant", "content": "ja"}}]})
            span.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15})
            span.set_attribute("mlflow.llm.model", "gpt-4o")
            span.add_event(mlflow.entities.SpanEvent("retry", attributes={"after_s": 1, "why": "429"}))
        mlflow.update_current_trace(tags={"team": "line"}, metadata={"mlflow.trace.session": "s-1"}, client_request_id="req-1")
        return {"text": "ja"}

    answer("wie geht's?")
    return logged(mlflow)


def test_a_trace_comes_back_as_it_was_logged(mlflow: Any, experiment: str) -> None:
    trace = answer_chat(mlflow)
    info = trace.info
    assert (info.experiment_id, info.state.value, info.client_request_id) == (experiment, "OK", "req-1")
    assert info.tags["team"] == "line"
    assert info.tags["mlflow.traceName"] == "answer"
    assert info.tags["mlflow.trace.spansLocation"] == "TRACKING_STORE"
    assert info.trace_metadata["mlflow.trace.session"] == "s-1"
    assert info.token_usage == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    assert (info.request_preview, info.response_preview) == ('{"question": "wie geht\'s?"}', '{"text": "ja"}')
    root, call = trace.data.spans
    assert (root.name, root.span_type, root.parent_id, root.attributes["k"]) == ("answer", "CHAIN", None, {"a": [1, 2.5, None, True, "é"]})
    assert (root.inputs, root.outputs) == ({"question": "wie geht's?"}, {"text": "ja"})
    assert (call.parent_id, call.span_type, call.attributes["mlflow.llm.model"]) == (root.span_id, "CHAT_MODEL", "gpt-4o")
    assert root.start_time_ns <= call.start_time_ns <= call.end_time_ns <= root.end_time_ns
    assert [(event.name, event.attributes) for event in call.events] == [("retry", {"after_s": 1, "why": "429"})]
    assert root.status.status_code.value == "OK"


def test_spans_equal_what_the_client_had(mlflow: Any, experiment: str) -> None:
    kept: list[dict[str, Any]] = []
    with mlflow.start_span("outer") as outer:
        outer.set_attribute("nested", {"deep": [{"x": 1}, "y"], "empty": {}, "list": []})
        with mlflow.start_span("inner") as inner:
            inner.set_inputs([1, 2])
    for span in (outer, inner):
        kept.append(span.to_dict())
    assert [span.to_dict() for span in logged(mlflow).data.spans] == kept


def test_an_exception_is_a_trace_in_error(mlflow: Any, experiment: str) -> None:
    @mlflow.trace
    def broken() -> None:
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        broken()
    trace = logged(mlflow)
    assert trace.info.state.value == "ERROR"
    [span] = trace.data.spans
    assert span.status.status_code.value == "ERROR"
    assert "the reason" in span.status.description
    assert span.events[0].name == "exception"


def test_no_file_is_uploaded_beside_the_spans(mlflow: Any, experiment: str, andon_server: AndonServer) -> None:
    """The client uploads traces.json unless the server says that it keeps spans: the answer to its telling says so."""
    trace = answer_chat(mlflow)
    client = mlflow.MlflowClient()
    root = client.get_experiment(experiment).artifact_location
    from mlflow.artifacts import list_artifacts

    assert list_artifacts(f"{root}/traces/{trace.info.trace_id}/artifacts", tracking_uri=andon_server.url) == []


def test_search(mlflow: Any, experiment: str) -> None:
    ids = []
    for n in range(5):
        with mlflow.start_span(f"job {n % 2}", span_type="TOOL") as span:
            span.set_attribute("app.n", f"n{n}")
            mlflow.update_current_trace(tags={"n": str(n), "odd": str(n % 2)})
        mlflow.flush_trace_async_logging()
        ids.append(mlflow.get_last_active_trace_id())

    def found(filter_string: str, **more: Any) -> list[int]:
        traces = mlflow.search_traces(locations=[experiment], filter_string=filter_string, return_type="list", **more)
        return [ids.index(trace.info.trace_id) for trace in traces]

    assert found("") == [4, 3, 2, 1, 0]  # the newest first
    assert found("tags.odd = '1'") == [3, 1]
    assert found("tags.odd != '1' AND tags.n != '0'") == [4, 2]
    assert found("tags.n LIKE '%2%'") == [2]
    assert found("tags.none IS NULL AND tags.n IS NOT NULL", order_by=["timestamp_ms ASC"]) == [0, 1, 2, 3, 4]
    assert found("trace.name = 'job 1'") == [3, 1]
    assert found("status = 'OK'") == [4, 3, 2, 1, 0]
    assert found("status IN ('ERROR', 'IN_PROGRESS')") == []
    assert found("timestamp_ms > 0 AND execution_time_ms < 1000000") == [4, 3, 2, 1, 0]
    assert found("timestamp_ms > 9999999999999") == []
    assert found("metadata.`mlflow.user` LIKE '%'") == [4, 3, 2, 1, 0]
    assert found("span.name = 'job 0'") == [4, 2, 0]
    assert found("span.type = 'TOOL' AND span.attributes.app.n = 'n3'") == [3]
    assert found("trace.text LIKE '%n4%'") == [4]
    assert found(f"request_id IN ('{ids[0]}', '{ids[2]}')") == [2, 0]
    assert found("", order_by=["tags.odd DESC", "timestamp_ms ASC"]) == [1, 3, 0, 2, 4]
    assert found("", max_results=2) == [4, 3]
    frame = mlflow.search_traces(locations=[experiment], filter_string="tags.n = '3'")
    assert list(frame["trace_id"]) == [ids[3]]
    assert frame["spans"][0][0]["name"] == "job 1"


def test_pages(mlflow: Any, experiment: str, client: MlflowClient) -> None:
    for _ in range(5):
        with mlflow.start_span("x"):
            pass
    mlflow.flush_trace_async_logging()
    seen: list[str] = []
    token = None
    for expected in (2, 2, 1):
        page = client.search_traces(locations=[experiment], max_results=2, page_token=token, include_spans=False)
        assert len(page) == expected
        seen += [trace.info.trace_id for trace in page]
        token = page.token
    assert token is None
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("bogus = 'x'", "bogus"),
        ("tags.x > 'y'", ">"),
        ("status = OK", "not quoted"),
        ("name = 'a' OR name = 'b'", "OR"),
        ("span.nothing = 'x'", "nothing"),
        ("prompt = 'x'", "name/version"),
        ("feedback.x LIKE 5", "feedback"),
    ],
)
def test_filters_that_say_nothing(mlflow: Any, experiment: str, wrong: str, said: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=said) as raised:
        mlflow.search_traces(locations=[experiment], filter_string=wrong, return_type="list")
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_assessments(mlflow: Any, experiment: str) -> None:
    from mlflow.entities import AssessmentSource, Feedback

    trace = answer_chat(mlflow).info.trace_id
    ana = AssessmentSource(source_type="HUMAN", source_id="ana")
    good = mlflow.log_feedback(trace_id=trace, name="good", value=True, rationale="it is", source=ana, metadata={"m": "1"})
    wanted = mlflow.log_expectation(trace_id=trace, name="wanted", value={"text": ["ja"]}, source=ana)
    score = mlflow.log_feedback(trace_id=trace, name="score", value=0.25)
    failed = mlflow.log_feedback(trace_id=trace, name="judge", error=RuntimeError("down"))
    read = {item.name: item for item in mlflow.get_trace(trace).info.assessments}
    assert (read["good"].value, read["good"].rationale, read["good"].source.source_id, read["good"].metadata) == (
        True,
        "it is",
        "ana",
        {"m": "1"},
    )
    assert read["wanted"].value == {"text": ["ja"]}
    assert read["score"].value == 0.25
    assert read["judge"].error.error_message == "down"
    updated = mlflow.update_assessment(trace, good.assessment_id, Feedback(name="good", value="so so", metadata={"n": "2"}))
    assert (updated.value, updated.rationale, updated.metadata) == ("so so", "it is", {"m": "1", "n": "2"})
    over = mlflow.override_feedback(trace_id=trace, assessment_id=good.assessment_id, value=False)
    assert not mlflow.get_assessment(trace, good.assessment_id).valid

    def found(filter_string: str) -> bool:
        return bool(mlflow.search_traces(locations=[experiment], filter_string=filter_string, return_type="list"))

    assert found("feedback.good = 'false' AND feedback.score < 0.5 AND expectation.wanted IS NOT NULL")
    assert not found("feedback.good = 'so so'")  # no longer valid
    assert not found("feedback.score >= 0.5")
    assert found("feedback.none IS NULL")
    mlflow.delete_assessment(trace, over.assessment_id)
    assert mlflow.get_assessment(trace, good.assessment_id).valid
    for item in (wanted, score, failed):
        mlflow.delete_assessment(trace, item.assessment_id)
    assert [item.name for item in mlflow.get_trace(trace).info.assessments] == ["good"]
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        mlflow.get_assessment(trace, score.assessment_id)


def test_tags_runs_and_prompts(mlflow: Any, experiment: str, client: MlflowClient) -> None:
    from mlflow.exceptions import MlflowException

    with mlflow.start_run() as run, mlflow.start_span("in a run"):
        pass
    mlflow.flush_trace_async_logging()
    within = mlflow.get_last_active_trace_id()
    with mlflow.start_span("linked later"):
        pass
    mlflow.flush_trace_async_logging()
    linked = mlflow.get_last_active_trace_id()
    client.link_traces_to_run([linked], run.info.run_id)
    traces = mlflow.search_traces(locations=[experiment], filter_string=f"run_id = '{run.info.run_id}'", return_type="list")
    assert {trace.info.trace_id for trace in traces} == {within, linked}
    client.set_trace_tag(linked, "a.b c", "1")
    client.set_trace_tag(linked, "mlflow.traceName", "renamed")
    tags = client.get_trace(linked).info.tags
    assert (tags["a.b c"], tags["mlflow.traceName"]) == ("1", "renamed")
    client.delete_trace_tag(linked, "a.b c")
    for wrong in (lambda: client.delete_trace_tag(linked, "a.b c"), lambda: client.set_trace_tag("tr-none", "a", "b")):
        with pytest.raises(MlflowException) as raised:
            wrong()
        assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_delete(mlflow: Any, experiment: str, client: MlflowClient) -> None:
    from mlflow.exceptions import MlflowException

    ids = []
    for _ in range(4):
        with mlflow.start_span("x"):
            pass
        mlflow.flush_trace_async_logging()
        ids.append(mlflow.get_last_active_trace_id())
    assert client.delete_traces(experiment, trace_ids=[ids[3], "tr-none"]) == 1
    with pytest.raises(MlflowException, match="not found"):
        client.get_trace(ids[3])
    assert client.delete_traces(experiment, max_timestamp_millis=9_999_999_999_999, max_traces=1) == 1
    left = mlflow.search_traces(locations=[experiment], return_type="list")
    assert [trace.info.trace_id for trace in left] == [ids[2], ids[1]]  # the oldest went first
    assert client.delete_traces(experiment, max_timestamp_millis=9_999_999_999_999) == 2


def test_correlation(mlflow: Any, experiment: str) -> None:
    from mlflow.tracking._tracking_service.utils import _get_store

    for n in range(8):
        with mlflow.start_span("x"):
            mlflow.update_current_trace(tags={"a": str(n % 2), "b": str(n % 2), "c": str(n // 4)})
    mlflow.flush_trace_async_logging()
    store = _get_store()
    same = store.calculate_trace_filter_correlation([experiment], "tags.a = '1'", "tags.b = '1'")
    assert (same.filter1_count, same.joint_count, same.total_count, same.npmi) == (4, 4, 8, 1.0)
    other = store.calculate_trace_filter_correlation([experiment], "tags.a = '1'", "tags.c = '1'")
    assert (other.joint_count, round(other.npmi, 9)) == (2, 0.0)
    never = store.calculate_trace_filter_correlation([experiment], "tags.a = '1'", "tags.a = '0'", base_filter="tags.c = '0'")
    assert (never.filter1_count, never.total_count, never.npmi) == (2, 4, -1.0)


def test_a_trace_of_a_client_before_three(andon_server: AndonServer, mlflow: Any, experiment: str) -> None:
    from tests.wire.mlflow.test_traces_otlp import call

    pairs = [{"key": "a", "value": "b"}]
    status, made = call(
        andon_server.url,
        "POST",
        "/api/2.0/mlflow/traces",
        {"experiment_id": experiment, "timestamp_ms": 5, "request_metadata": pairs, "tags": pairs},
    )
    assert (status, made["trace_info"]["status"]) == (200, "IN_PROGRESS")
    identity = made["trace_info"]["request_id"]
    status, over = call(
        andon_server.url,
        "PATCH",
        f"/api/2.0/mlflow/traces/{identity}",
        {"timestamp_ms": 9, "status": "OK", "tags": [{"key": "c", "value": "d"}]},
    )
    assert (status, over["trace_info"]["status"], over["trace_info"]["execution_time_ms"]) == (200, "OK", 4)
    status, read = call(andon_server.url, "GET", f"/api/2.0/mlflow/traces/{identity}/info")
    assert read == over
    status, page = call(andon_server.url, "GET", f"/api/2.0/mlflow/traces?experiment_ids={experiment}&filter=tags.c%20%3D%20'd'")
    assert [trace["request_id"] for trace in page["traces"]] == [identity]
    assert json.dumps(page)
