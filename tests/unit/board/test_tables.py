"""Evidence, differences and verdicts as a person reads them."""

from __future__ import annotations

from andon.board import tables
from andon.board.timeaxis import calendar
from andon.core.clocks import DAY_US, HOUR_US
from andon.core.verdicts import Evidence, Status, Verdict
from andon.registry import Change

AUGUST_US = 1_312_156_800_000_000


def test_empty_tables_are_not_shown_and_one_row_is_a_fact() -> None:
    found = tables.sheets(
        [
            Evidence("Suspect inputs", ("feature", "change"), ()),
            Evidence("World", ("actual / predicted", "growth", "sound"), ((0.9334, 1.0, True),)),
            Evidence("Two", ("a", "b"), ((1, "x"), (2, "y"))),
        ]
    )
    assert [fact.title for fact in found.facts] == ["World"]
    assert found.facts[0].values == (("actual / predicted", "0.933"), ("growth", "1"), ("sound", "yes"))
    assert [table.title for table in found.tables] == ["Two"]
    assert found.tables[0].columns == ("A", "B")
    assert found.tables[0].numeric == (True, False)


def test_an_answer_without_a_value_is_not_known() -> None:
    columns = ("question", "value", "threshold", "yes")
    found = tables.sheets([Evidence("Questions", columns, (("harmed?", 1.2, 1.4, False), ("better?", None, 0.8, False)))])
    table = found.tables[0]
    assert table.columns[-1] == "Answer"
    assert [row[-1] for row in table.rows] == [False, "unknown"]
    assert table.numeric == (False, True, True, False)


def test_columns_that_say_nothing_and_tables_that_were_said_are_left_out() -> None:
    found = tables.sheets([Evidence("Suspects", ("feature", "repaired", "change"), (("a", None, 1.0), ("b", None, 2.0), ("c",)))])
    assert found.tables[0].columns == ("Feature", "Change")
    assert found.tables[0].rows[2] == ("c", None)
    changes = Evidence("Changes", ("when", "what", "to"), (("2011-08-01", "a", "b"), ("2011-08-02", "a", "c")))
    assert tables.sheets([changes], without=frozenset({"when", "what"})).tables == ()


def test_a_difference_is_said_in_words() -> None:
    found = tables.difference(
        [
            Change("data[dataset:bikes].address", "dataset:bikes@1", "dataset:bikes@2"),
            Change("data[dataset:bikes].digest", "b3:1", "b3:2"),
            Change("model.digest", "b3:1", "b3:2"),
            Change("evaluation.address", "dataset:gate@1", "dataset:gate@2"),
            Change("environment.requirements[numpy]", "numpy==1.26.4", "numpy==2.0.0"),
            Change("code.commit", "a", "b"),
            Change("example[0].temp", 1, 2),
            Change("something.else", 1, 2),
        ]
    )
    assert [row.what for row in found.rows] == [
        "data bikes", "model (its bytes)", "evaluation data", "commit", "something.else", "package numpy",
    ]  # fmt: skip
    assert (found.rows[-1].before, found.rows[-1].after) == ("1.26.4", "2.0.0")
    assert [one.what for one in found.folded] == ["1 value in the example rows"]


def test_many_packages_are_folded() -> None:
    found = tables.difference([Change(f"environment.requirements[p{n}]", f"p{n}==1", None) for n in range(30)])
    assert found.rows == ()
    assert found.folded[0].what == "30 packages"
    assert len(found.folded[0].rows) == 30


def _verdict(check: str, status: Status) -> Verdict:
    return Verdict(subject="service:s", check=check, status=status, message="", id=check)


def test_what_is_wrong_comes_first_and_passing_inputs_are_one_row() -> None:
    found = tables.checks(
        [_verdict(f"inputs/{n}", "pass") for n in range(9)]
        + [_verdict("inputs/nulls", "fail"), _verdict("drift", "warn"), _verdict("live-quality", "pass"), _verdict("alpha", "pass")]
    )
    assert [one.check for one in found.rows] == ["inputs/nulls", "drift", "live-quality", "alpha"]
    assert len(found.passing) == 9
    assert tables.checks([_verdict("inputs/nulls", "pass")]).passing == ()


def test_a_time_axis_has_round_places() -> None:
    assert [label for _, label in calendar(AUGUST_US, AUGUST_US + 20 * DAY_US, 4)] == ["1 Aug 2011", "8 Aug", "15 Aug"]
    assert [label for _, label in calendar(AUGUST_US + HOUR_US, AUGUST_US + 7 * HOUR_US, 6)][:2] == ["1 Aug 01:00", "02:00"]
    months = calendar(AUGUST_US, AUGUST_US + 200 * DAY_US, 9)
    assert [label for _, label in months] == ["Aug 2011", "Sep", "Oct", "Nov", "Dec", "Jan 2012", "Feb"]
    assert [label for _, label in calendar(AUGUST_US, AUGUST_US + 3000 * DAY_US, 10)][:2] == ["2012", "2013"]
    assert len(calendar(0, 10**17, 6)) <= 6
    assert calendar(AUGUST_US, AUGUST_US + 1, 6)
