"""Gate policies: which checks, and which of them block. A policy is registered and versioned like everything else."""

from __future__ import annotations

import msgspec

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import InvalidInput, NotFound
from andon.core.verdicts import Judged
from andon.gates.checks import BeatsBaseline, NotWorse, ReleaseCheck
from andon.gates.evidence import GateEvidence
from andon.registry import Version, get, register
from andon.store import Store


class Rule(msgspec.Struct, frozen=True):
    """One check of a gate, and whether it can stop the line."""

    check: ReleaseCheck
    blocks: bool = True


class GatePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest of ``policy:gate/NAME``."""

    rules: tuple[Rule, ...]


DEFAULT_NAME = "gate/default"
DEFAULT_POLICY = GatePolicy((Rule(BeatsBaseline(metric="mae")), Rule(NotWorse(metric="mae"))))
"""Registered as ``policy:gate/default`` when nobody has registered another: beat the honest baseline, be no worse than the champion."""


def register_policy(store: Store, name: str, policy: GatePolicy, *, actor: Actor, reason: str = "") -> Version:
    """Register ``policy:NAME``. Raises ``InvalidInput`` when it has no rules or two checks of one name."""
    names = [rule.check.name for rule in policy.rules]
    if not names or len(set(names)) != len(names):
        raise InvalidInput("a gate has at least one check, and no two of one name", field="rules", got=", ".join(names))
    return register(store, "policy", name, policy, actor=actor, reason=reason)


def policy_at(store: Store, address: str | Address, *, actor: Actor) -> tuple[Version, GatePolicy]:
    """The policy at an address; ``policy:gate/default`` is made on first use. Raises ``NotFound`` or ``InvalidInput``."""
    at = Address.parse(address, kind="policy")
    try:
        version = get(store, at)
    except NotFound:
        if at.name != DEFAULT_NAME or at.version is not None:
            raise
        version = register_policy(store, DEFAULT_NAME, DEFAULT_POLICY, actor=actor, reason="the default")
    try:
        return version, msgspec.convert(version.manifest, GatePolicy)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"this policy is not a gate: {error}", address=str(version.address)) from None


def judge(policy: GatePolicy, evidence: GateEvidence) -> list[Judged]:
    """Run every check of the policy, also after one has failed: a refusal says all that is wrong at once."""
    return [Judged(rule.check.run(evidence), rule.blocks) for rule in policy.rules]
