"""Policies from plain data and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import andon
from andon import registry
from andon.cli.main import invoke
from andon.core.errors import InvalidInput
from andon.gates import policy_at
from andon.incidents.controller import incident_policy
from andon.monitoring.served import policy_of
from andon.store import Store
from tests.conftest import ANA

GATE = {"rules": [{"check": {"type": "ceiling", "metric": "log-loss", "at_most": 0.5}}]}


def test_each_kind_is_read_by_who_obeys_it(store: Store) -> None:
    andon.register_policy("gate/churn", GATE, store=store, actor=ANA)
    assert policy_at(store, "policy:gate/churn", actor=ANA)[1].rules[0].check.name == "log-loss-ceiling"
    andon.register_policy("monitor/churn", {"loss": "zero-one", "harm_ratio": 1.2}, store=store, actor=ANA)
    assert policy_of(store, "churn").harm_ratio == 1.2
    andon.register_policy("incident/churn", {"auto_rollback": False}, store=store, actor=ANA)
    assert incident_policy(store, "churn").auto_rollback is False


@pytest.mark.parametrize(
    ("name", "policy", "said"),
    [
        ("gate/x", {"rules": []}, "at least one check"),
        ("gate/x", {"rules": [{"check": {"type": "luck"}}]}, "luck"),
        ("monitor/x", {"harm_ratio": "much"}, "harm_ratio"),
        ("incident/x", {"auto_rollback": 3}, "auto_rollback"),
        ("other/x", {}, "starts with"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(store: Store, name: str, policy: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        andon.register_policy(name, policy, store=store, actor=ANA)
    assert registry.entries(store, "policy") == []


def test_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('[[rules]]\ncheck = {type = "beats-baseline", metric = "mae", ratio = 0.9}\n')
    assert invoke(["policy", "gate/mine", str(file), "--home", str(tmp_path / "home")]) == 0
    assert "policy:gate/mine@1" in capsys.readouterr().out
    file.write_text("rules = {")
    assert invoke(["policy", "gate/mine", str(file), "--home", str(tmp_path / "home")]) == 65
