"""The filter language: what it reads, what it refuses and in which words, and that nothing makes it slow."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from andon.core.errors import InvalidInput
from andon.tracking.search import EXPERIMENTS, LOGGED_MODELS, RUNS, Clause, Order, parse_filter, parse_order, render_filter
from andon.tracking.search.grammar import LISTS, NULLS, NUMERIC, TEXTUAL
from andon.tracking.search.tokens import MAX_CHARACTERS


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("metrics.acc > 1", Clause("metric", "acc", ">", 1.0)),
        ("metric.acc>=-1.5e-3", Clause("metric", "acc", ">=", -0.0015)),
        ("metrics.acc < .5", Clause("metric", "acc", "<", 0.5)),
        ("metrics.a.b.c = 5.", Clause("metric", "a.b.c", "=", 5.0)),
        ("metrics.`val loss/x` != 0", Clause("metric", "val loss/x", "!=", 0.0)),
        ('metrics."val loss" > 0', Clause("metric", "val loss", ">", 0.0)),
        ("params.lr = '0.1'", Clause("parameter", "lr", "=", "0.1")),
        ("`params`.lr = '0.1'", Clause("parameter", "lr", "=", "0.1")),
        ('parameter.a = "it\'s"', Clause("parameter", "a", "=", "it's")),
        ("params.a = 'it''s'", Clause("parameter", "a", "=", "it''s")),
        ("params.a = 'it\\'s'", Clause("parameter", "a", "=", "it\\'s")),
        ("params.a = 'ends in \\'", Clause("parameter", "a", "=", "ends in \\")),
        ("params.a = ''", Clause("parameter", "a", "=", "")),
        ("params.1a = 'x'", Clause("parameter", "1a", "=", "x")),
        ("params.and = 'x'", Clause("parameter", "and", "=", "x")),
        ("tags.`mlflow.parentRunId` like 'a%'", Clause("tag", "mlflow.parentRunId", "LIKE", "a%")),
        ("tag.a is null", Clause("tag", "a", "IS NULL")),
        ("tag.a IS  NOT NULL", Clause("tag", "a", "IS NOT NULL")),
        ("run_id IN ('a', \"b\",)", Clause("attribute", "run_id", "IN", ("a", "b"))),
        ("attr.run_id not in ('a' 'b')", Clause("attribute", "run_id", "NOT IN", ("ab",))),
        ("attributes.`Run name` ILIKE 'x'", Clause("attribute", "run_name", "ILIKE", "x")),
        ("created > 5", Clause("attribute", "start_time", ">", 5)),
        ("run.end_time <= 5.5", Clause("attribute", "end_time", "<=", 5.5)),
        ("datasets.digest IN ('d')", Clause("dataset", "digest", "IN", ("d",))),
    ],
)
def test_a_clause(text: str, clause: Clause):
    assert parse_filter(text, RUNS) == [clause]


def test_clauses_are_joined_by_and_and_a_spare_one_is_nothing():
    text = "AND metrics.a > 1 and params.b='x'AND tags.c IS NULL AND AND"
    assert [clause.key for clause in parse_filter(text, RUNS)] == ["a", "b", "c"]
    assert parse_filter("", RUNS) == parse_filter(None, RUNS) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrics.a > 1 metrics.b > 2", "expected AND before 'metrics.b'"),
        ("metrics.a > 1 OR metrics.b > 2", "expected AND before 'OR'"),
        ("(metrics.a > 1)", "found '('"),
        ("metrics.a", "expected a comparator after 'metrics.a', found its end"),
        ("metrics.a >", "ends where more was expected"),
        ("metrics.a == 1", "Invalid comparator '=='"),
        ("metrics.a > 'x'", "Expected numeric value type for metric 'a'. Found 'x'"),
        ("metrics.a > nan", "Found nan"),
        ("metrics.a-b > 1", "found '-'"),
        ("metrics. > 1", "ends in a dot"),
        ("metrics.`` > 1", "its key is empty"),
        ("params.a > 'x'", "Invalid comparator '>' for parameter 'a'"),
        ("params.a = 1", "Expected a quoted string value for parameter 'a'"),
        ("params.a = x", "not quoted"),
        ("params.a = 'x", "the quote ' at character 12 is not closed"),
        ("params.a IN ('x')", "parameter 'a' does not support comparison with a list"),
        ("Metrics.a > 1", "Invalid entity type 'Metrics'. Valid values are ['attribute', 'metric', 'parameter', 'tag', 'dataset']"),
        ("nothing = 'x'", "Invalid attribute key 'nothing' specified. Valid keys are ['status'"),
        ("dataset.size = 'x'", "Invalid dataset key 'size'"),
        ("metrics.a IS NULL", "IS NULL / IS NOT NULL is only supported for tags and params, not for 'metric' 'a'"),
        ("run_id IN ()", "got empty list"),
        ("run_id IN (1)", "got '1'"),
        ("run_id IN ('a'; 'b')", "expected a comma, but got ';'"),
        ("run_id IN ('a'", "ends where more was expected"),
        ("  ", "Could not be parsed"),
        ("params.a = 'x' AND " * 101 + "params.a = 'x'", "more than 100 clauses"),
        ("x" * (MAX_CHARACTERS + 1), "longer than"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str):
    with pytest.raises(InvalidInput) as caught:
        parse_filter(text, RUNS)
    assert says in caught.value.message
    assert caught.value.fields["field"] == "filter"


def test_other_nouns_have_words_of_their_own():
    assert parse_filter("experiment_id IN ('1')", EXPERIMENTS) == [Clause("attribute", "experiment_id", "IN", ("1",))]
    assert parse_filter("creation_time > 5 AND tags.a IS NULL", EXPERIMENTS)[0].value == 5
    assert parse_filter("attributes.creation_time > 5", LOGGED_MODELS) == [Clause("attribute", "creation_timestamp", ">", 5)]
    assert parse_filter("params.a IN ('x')", LOGGED_MODELS) == [Clause("parameter", "a", "IN", ("x",))]
    for text, fields in (("metrics.a > 1", EXPERIMENTS), ("attributes.name = 'x'", EXPERIMENTS), ("param.a = 'x'", LOGGED_MODELS)):
        with pytest.raises(InvalidInput, match="Invalid entity type"):
            parse_filter(text, fields)


def test_orders():
    texts = ["metrics.`a b` DESC", "attributes.start_time", "params.x asc", 'tags."a.b"', " end_time  desc "]
    assert parse_order(texts, RUNS) == [
        Order("metric", "a b", False),
        Order("attribute", "start_time"),
        Order("parameter", "x"),
        Order("tag", "a.b"),
        Order("attribute", "end_time", False),
    ]
    for text, says in (
        ("metrics.a foo", "Invalid ordering key"),
        ("metrics.a DESC x", "Could not be parsed"),
        ("", "Could not be parsed"),
        ("metrics.a,metrics.b", "Could not be parsed"),
        ("dataset.name", "cannot be ordered by"),
        ("`Run name`", "cannot be ordered by"),
        ("nothing", "Invalid attribute key 'nothing'"),
    ):
        with pytest.raises(InvalidInput) as caught:
            parse_order([text], RUNS)
        assert says in caught.value.message
        assert caught.value.fields["field"] == "order_by"
    with pytest.raises(InvalidInput, match="duplicate fields"):
        parse_order(["start_time", "created DESC"], RUNS)


PIECES = st.sampled_from(
    [
        "metrics",
        "params",
        "run_id",
        ".",
        "`",
        "'",
        '"',
        " ",
        "AND",
        "IN",
        "NOT",
        "NULL",
        "IS",
        "LIKE",
        "(",
        ")",
        ",",
        "=",
        "!",
        ">",
        "-",
        "1e",
        "0.5",
        "\\",
        "é",
        "\0",
        ";",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join)))
@example("run_id IN ('\\x')")
@example("params.a = '\\'\\'")
@example("run_id IN (\"a\nb\", 'c\\\n')")
def test_nothing_breaks_it_but_in_our_words(text: str):
    for fields in (RUNS, EXPERIMENTS, LOGGED_MODELS):
        with contextlib.suppress(InvalidInput):
            parse_filter(text, fields)
        with contextlib.suppress(InvalidInput):
            parse_order([text], fields)


KEYS = st.text(min_size=1).filter(lambda key: "`" not in key and not (len(key) > 1 and key[0] == key[-1] and key[0] in "\"'"))
TEXTS = st.text().filter(lambda text: not ("'" in text and '"' in text) and not text.endswith("\\"))
CLAUSES = st.one_of(
    st.builds(Clause, st.just("metric"), KEYS, st.sampled_from(sorted(NUMERIC)), st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Clause, st.sampled_from(["parameter", "tag"]), KEYS, st.sampled_from(sorted(TEXTUAL)), TEXTS),
    st.builds(Clause, st.sampled_from(["parameter", "tag"]), KEYS, st.sampled_from(sorted(NULLS))),
    st.builds(Clause, st.just("attribute"), st.just("run_id"), st.sampled_from(sorted(LISTS)), st.lists(st.text(), min_size=1).map(tuple)),
    st.builds(Clause, st.just("attribute"), st.just("start_time"), st.sampled_from(sorted(NUMERIC)), st.integers(-(2**62), 2**62)),
)


@given(st.lists(CLAUSES, max_size=5))
@example([Clause("attribute", "run_id", "IN", ("\\", "", "a'b\"c\\"))])
def test_what_is_written_reads_the_same(clauses: list[Clause]):
    try:
        text = render_filter(clauses)
    except InvalidInput:
        return  # a text that the language has no quotes for; test_what_cannot_be_written says which
    assert parse_filter(text, RUNS) == clauses


def test_what_cannot_be_written():
    for clause in (Clause("parameter", 'a`b"c', "=", "x"), Clause("parameter", "a", "=", "both ' and \""), Clause("tag", "", "IS NULL")):
        with pytest.raises(InvalidInput, match="cannot be written"):
            render_filter([clause])


@pytest.mark.parametrize(
    "piece", ["'", "`", '"', "'a' ", "\\'", "(", "metrics.", "a.", "1", "-", "AND ", "run_id IN (", "''", "=", "é", "\t"]
)
def test_long_input_takes_linear_time(piece: str):
    """Twice the length, about twice the time: four times would be quadratic already (and 20 s at full length)."""

    def took(length: int) -> float:
        text = (piece * (length // len(piece) + 1))[:length]
        began = time.process_time()
        with pytest.raises(InvalidInput):
            parse_filter("params.a = " + text + "(", RUNS)
        return time.process_time() - began

    assert took(MAX_CHARACTERS - 100) < 3.0
