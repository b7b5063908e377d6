"""The registry and its aliases against a model of plain dicts: whatever anybody does in whatever order, both say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from andon.core.clocks import ManualClock
from andon.core.digests import digest_json
from andon.core.errors import AliasMoved, AndonError, Conflict, Gone, NotFound, Pinned
from andon.registry import (
    ANY,
    Parent,
    aliases_of,
    delete,
    entries,
    get,
    lineage,
    move_alias,
    moves,
    register,
    remove_alias,
    set_tag,
    tag_history,
    tags_of,
    versions,
)
from andon.registry.check import check_registry
from andon.store import memory_store
from tests.conftest import ANA

NAMES, ALIASES, KEYS = ("a", "b"), ("champion", "challenger"), ("k1", "k2")
names, aliases, manifests = st.sampled_from(NAMES), st.sampled_from(ALIASES), st.integers(0, 2)
some_version = st.integers(1, 6)
blob = "b3:" + "0" * 64


@dataclass
class Made:
    manifest: int
    key: str | None
    releases: list[int] = field(default_factory=list)
    living: bool = True


class Registry(RuleBasedStateMachine):
    """Models ``a`` and ``b``, with aliases, tags, and releases made from them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1_000)
        self.store = memory_store(self.clock)
        self.made: dict[str, list[Made]] = {name: [] for name in NAMES}
        self.points: dict[tuple[str, str], str] = {}
        self.history: dict[tuple[str, str], list[tuple[str | None, str | None]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.journal: dict[str, list[tuple[str, str | None]]] = {}
        self.releases: list[bool] = []

    def teardown(self) -> None:
        self.store.close()

    def _raises(self, call: Any) -> type[AndonError] | None:
        self.clock.advance(1)
        try:
            call()
        except AndonError as error:
            return type(error)
        return None

    @rule(name=names, manifest=manifests, key=st.none() | st.sampled_from(KEYS))
    def register(self, name: str, manifest: int, key: str | None) -> None:
        made = self.made[name]
        keyed = next((n for n, one in enumerate(made, 1) if key is not None and one.key == key), None)
        self.clock.advance(1)
        try:
            found = register(self.store, "model", name, manifest, actor=ANA, idempotency_key=key, blobs=[blob])
        except Conflict:
            assert keyed is not None
            assert made[keyed - 1].manifest != manifest
            return
        if keyed is not None:
            assert (found.address.version, found.manifest) == (keyed, made[keyed - 1].manifest == manifest and manifest)
        elif key is None and made and made[-1].living and made[-1].manifest == manifest:
            assert found.address.version == len(made)
        else:
            made.append(Made(manifest, key))
            assert found.address.version == len(made)
        assert found.digest == digest_json(manifest)

    @rule(name=names, version=some_version)
    def release(self, name: str, version: int) -> None:
        exists = version <= len(self.made[name])
        parents = [Parent(f"model:{name}@{version}", "model")]
        body = len(self.releases)
        raised = self._raises(lambda: register(self.store, "release", "r", body, actor=ANA, parents=parents))
        assert raised == (None if exists else NotFound)
        if exists:
            self.releases.append(True)
            self.made[name][version - 1].releases.append(len(self.releases))

    @rule(name=names, alias=aliases, version=some_version, expected=st.none() | some_version | st.just(ANY))
    def move(self, name: str, alias: str, version: int, expected: Any) -> None:
        wanted = expected if expected is ANY or expected is None else f"model:{name}@{expected}"
        now = self.points.get((name, alias))
        target = f"model:{name}@{version}"
        raised = self._raises(lambda: move_alias(self.store, f"model:{name}@{alias}", target, actor=ANA, expected=wanted))
        if version > len(self.made[name]):
            assert raised is NotFound
        elif not self.made[name][version - 1].living:
            assert raised is Gone
        elif wanted is not ANY and wanted != now:
            assert raised is AliasMoved
        else:
            assert raised is None
            self._moved(name, alias, target)

    @rule(name=names, alias=aliases)
    def remove(self, name: str, alias: str) -> None:
        raised = self._raises(lambda: remove_alias(self.store, f"model:{name}@{alias}", actor=ANA))
        assert raised == (None if (name, alias) in self.points else NotFound)
        if raised is None:
            self._moved(name, alias, None)

    def _moved(self, name: str, alias: str, target: str | None) -> None:
        before = self.points.pop((name, alias), None)
        if target is not None:
            self.points[name, alias] = target
        if before != target:
            self.history.setdefault((name, alias), []).append((before, target))

    @rule(name=names, version=some_version)
    def delete_model(self, name: str, version: int) -> None:
        address = f"model:{name}@{version}"
        raised = self._raises(lambda: delete(self.store, address, actor=ANA, reason="x"))
        made = self.made[name]
        if version > len(made):
            assert raised is NotFound
        elif not made[version - 1].living:
            assert raised is Gone
        elif address in self.points.values() or any(self.releases[n - 1] for n in made[version - 1].releases):
            assert raised is Pinned
        else:
            assert raised is None
            made[version - 1].living, made[version - 1].key = False, None

    @precondition(lambda self: any(self.releases))
    @rule()
    def delete_release(self) -> None:
        newest = max(n for n, living in enumerate(self.releases, 1) if living)
        assert self._raises(lambda: delete(self.store, f"release:r@{newest}", actor=ANA, reason="x")) is None
        self.releases[newest - 1] = False

    @rule(name=names, version=some_version, key=st.sampled_from(("t", "u")), value=st.none() | st.sampled_from(("x", "y")))
    def tag(self, name: str, version: int, key: str, value: str | None) -> None:
        subject = f"model:{name}@{version}"
        raised = self._raises(lambda: set_tag(self.store, subject, key, value, actor=ANA))
        held = self.tags.setdefault(subject, {})
        if version > len(self.made[name]) or (value is None and key not in held):
            assert raised is NotFound
            return
        assert raised is None
        if held.get(key) != value:
            self.journal.setdefault(subject, []).append((key, value))
        if value is None:
            del held[key]
        else:
            held[key] = value

    @invariant()
    def versions_are_the_models(self) -> None:
        for name, made in self.made.items():
            if not made:
                continue
            found = versions(self.store, f"model:{name}")[::-1]
            assert [version.address.version for version in found] == list(range(1, len(made) + 1))
            assert [version.manifest for version in found] == [one.manifest if one.living else None for one in made]
            living = [n for n, one in enumerate(made, 1) if one.living]
            if living:
                assert get(self.store, f"model:{name}").address.version == living[-1]
        known = {entry.name: entry.head for entry in entries(self.store, "model")}
        assert known == {name: len(made) for name, made in self.made.items() if made}

    @invariant()
    def aliases_are_the_models(self) -> None:
        for name in NAMES:
            assert aliases_of(self.store, f"model:{name}") == {alias: to for (of, alias), to in self.points.items() if of == name}
        for (name, alias), history in self.history.items():
            found = moves(self.store, f"model:{name}@{alias}")
            assert [(move.source, move.target) for move in found] == history
            assert [move.revision for move in found] == list(range(1, len(history) + 1))

    @invariant()
    def tags_are_the_models(self) -> None:
        for subject, held in self.tags.items():
            assert tags_of(self.store, subject) == held
            assert [(change.key, change.value) for change in tag_history(self.store, subject)] == self.journal.get(subject, [])

    @invariant()
    def the_checker_finds_nothing(self) -> None:
        assert check_registry(self.store) == []

    @invariant()
    def lineage_is_the_models(self) -> None:
        for name, made in self.made.items():
            for version, one in enumerate(made, 1):
                down = lineage(self.store, f"model:{name}@{version}", "down").nodes[1:]
                assert set(down) == {f"release:r@{n}" for n in one.releases}


Registry.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestRegistry = Registry.TestCase
