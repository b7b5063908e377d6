"""The address grammar: what it takes, what it refuses, and that text and record are two sides of one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.core.addresses import ID_KINDS, MAX_ALIAS_BYTES, MAX_NAME_BYTES, VERSIONED_KINDS, Address, check_alias, check_name
from andon.core.errors import InvalidAddress

parts = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda part: part.strip("."))
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
versioned = st.builds(
    lambda kind, name, suffix: Address(kind, name, *suffix),
    st.sampled_from(sorted(VERSIONED_KINDS)),
    names,
    st.one_of(
        st.just((None, None)),
        st.tuples(st.integers(1, 10**18 - 1), st.none()),
        st.tuples(st.none(), st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)),
    ),
)
by_id = st.builds(
    Address, st.sampled_from(sorted(ID_KINDS - {"experiment"})), st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_-]{0,30}", fullmatch=True)
)
experiments = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=50).map(lambda name: Address("experiment", name))
addresses = st.one_of(versioned, by_id, experiments)


@given(addresses)
def test_an_address_is_its_text(address: Address) -> None:
    assert Address.parse(str(address)) == address
    assert Address.parse(address) is address


@given(addresses, addresses)
def test_different_addresses_have_different_texts(a: Address, b: Address) -> None:
    assert (a == b) == (str(a) == str(b))


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_a_clear_refusal(text: str) -> None:
    try:
        found = str(Address.parse(text))
    except InvalidAddress as error:
        found = text if error.next_step and len(error.message) < 400 else ""
    assert found == text


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", None),
        ("model", None),
        ("model:", None),
        ("modle:bikes", "kind"),
        ("model:Bikes", "name"),
        ("model:-bikes", "name"),
        ("model:a//b", "name"),
        ("model:a/../b", "name"),
        ("model:a/./b", "name"),
        ("model:a/", "name"),
        ("model:" + "a" * (MAX_NAME_BYTES + 1), "name"),
        ("model:bikes\n", "name"),
        ("model:bikes@", "suffix"),
        ("model:bikes@0", "suffix"),
        ("model:bikes@01", "suffix"),
        ("model:bikes@-1", "suffix"),
        ("model:bikes@1@2", "suffix"),
        ("model:bikes@_x", "suffix"),
        ("model:bikes@a.b", "suffix"),
        ("model:bikes@caf\u00e9", "suffix"),
        ("model:bikes@" + "a" * (MAX_ALIAS_BYTES + 1), "suffix"),
        ("model:bikes@1" + "0" * 18, "suffix"),
        ("run:a@1", "id"),
        ("run:../etc", "id"),
        ("run:" + "a" * 300, "id"),
        ("experiment: ", "name"),
        ("experiment:a\x00b", "name"),
    ],
)
def test_what_is_wrong_is_named(text: str, field: str | None) -> None:
    with pytest.raises(InvalidAddress) as caught:
        Address.parse(text)
    assert caught.value.fields.get("field") == field


def test_a_kind_can_be_left_out_where_it_is_known() -> None:
    assert Address.parse("bikes@3", kind="model") == Address("model", "bikes", 3)
    assert Address.parse("model:bikes", kind="model") == Address("model", "bikes")
    with pytest.raises(InvalidAddress, match="takes a model, not a dataset"):
        Address.parse("dataset:bikes", kind="model")
    with pytest.raises(InvalidAddress, match="text, not int"):
        Address.parse(3)  # type: ignore[arg-type]


def test_latest_is_read_and_never_set() -> None:
    assert Address.parse("model:bikes@latest").alias == "latest"
    with pytest.raises(InvalidAddress, match="computed"):
        check_alias("latest")
    with pytest.raises(InvalidAddress, match="computed"):
        check_alias("Latest")
    assert check_alias("champion") == "champion"
    assert check_alias("Champion_2") == "Champion_2"
    assert Address.parse("model:bikes@Champion_2") == Address("model", "bikes", None, "Champion_2")
    with pytest.raises(InvalidAddress):
        check_alias("1st")


def test_a_name_may_have_parts() -> None:
    assert check_name("gate/default") == "gate/default"
    assert Address.parse("model:a/b@3").entry == Address("model", "a/b")
    assert Address("model", "a").at(2) == Address.parse("model:a@2")
