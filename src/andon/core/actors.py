"""Who did it. Every write carries an actor; most carry a reason too."""

from __future__ import annotations

import getpass
import os
import re

import msgspec

from andon.core.errors import InvalidInput

_ACTOR = re.compile(r"(person|token|controller|process):[^\s:\x00-\x1f\x7f\ud800-\udfff][^\x00-\x1f\x7f\ud800-\udfff]{0,199}")


class Actor(msgspec.Struct, frozen=True):
    """A person, a token, a controller or a process, written ``person:ana``.

    >>> str(Actor("controller", "incidents"))
    'controller:incidents'
    >>> Actor.parse("person:ana").name
    'ana'
    """

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Actor:
        """Read ``kind:name``. Raises ``InvalidInput``."""
        if not _ACTOR.fullmatch(text):
            raise InvalidInput("an actor is person:NAME, token:NAME, controller:NAME or process:NAME", field="actor", got=text[:80])
        kind, _, name = text.partition(":")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def current_actor() -> Actor:
    """The person running this process: ``ANDON_ACTOR`` if set, else the login name."""
    named = os.environ.get("ANDON_ACTOR")
    if named:
        return Actor.parse(named if ":" in named else f"person:{named}")
    try:
        return Actor("person", getpass.getuser())
    except (OSError, KeyError):  # no login name for this uid, as in some containers
        return Actor("person", f"uid-{os.getuid()}")
