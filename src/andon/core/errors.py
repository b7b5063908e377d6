"""Every error Andon raises on purpose.

::

    AndonError                      code             HTTP  exit
    ├── InvalidInput                invalid-input     400   65
    │   ├── InvalidAddress          invalid-address   400   65
    │   └── InvalidSettings         invalid-settings  400   78
    ├── TooLarge                    too-large         413   65
    ├── NotFound                    not-found         404   66
    │   └── Gone                    gone              410   66
    ├── Forbidden                   forbidden         403   77
    ├── Conflict                    conflict          409   75
    │   ├── AliasMoved              alias-moved       409   75
    │   ├── Pinned                  pinned            409   75
    │   └── LeaseHeld               lease-held        409   75
    ├── GateRefused                 gate-refused      409    1
    ├── GateUndecided               gate-undecided    409    2
    ├── Incompatible                incompatible      409   65
    ├── BuildFailed                 build-failed      424   69
    ├── LoadFailed                  load-failed       424   69
    ├── ModelFailed                 model-failed      500   70
    ├── CorruptBytes                corrupt-bytes     500   74
    ├── Busy                        busy              429   75
    ├── DeadlineExceeded            deadline-exceeded 504   75
    └── Unavailable                 unavailable       503   69
        ├── ReadOnly                read-only         503   73
        ├── DiskFull                disk-full         507   74
        ├── OutcomeUnknown          outcome-unknown   503   69
        └── PortTaken               port-taken        503   69

An error carries a message in plain words, the fields it is about, and the next step to take. The faces (HTTP, CLI, wire formats) render
these three and nothing else; they never parse messages.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AndonError(Exception):
    """Something went wrong inside Andon. This is a defect: please report it."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70
    default_next_step: ClassVar[str | None] = None

    def __init__(self, message: str | None = None, *, next_step: str | None = None, **fields: Any) -> None:
        self.message = message or (type(self).__doc__ or self.code).strip().splitlines()[0]
        self.next_step = next_step or self.default_next_step
        self.fields = fields
        super().__init__(self.message)

    def __str__(self) -> str:
        text = self.message
        if self.fields:
            text += " (" + ", ".join(f"{key}: {value}" for key, value in self.fields.items()) + ")"
        if self.next_step:
            text += f"\n  next: {self.next_step}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.next_step, self.fields))

    def envelope(self) -> dict[str, Any]:
        """The one JSON shape of an error: ``{"error": {"code", "message", "next_step", "fields"}}``."""
        fields = {key: value if isinstance(value, int | float | bool | None) else str(value) for key, value in self.fields.items()}
        return {"error": {"code": self.code, "message": self.message, "next_step": self.next_step, "fields": fields}}


def _rebuild(kind: type[AndonError], message: str, next_step: str | None, fields: dict[str, Any]) -> AndonError:
    return kind(message, next_step=next_step, **fields)


class InvalidInput(AndonError):
    """The input is not what this call takes."""

    code = "invalid-input"
    status = 400
    exit_code = 65


class InvalidAddress(InvalidInput):
    """That is not an address."""

    code = "invalid-address"
    default_next_step = "write kind:name@version-or-alias, such as model:bikes@3 or service:bikes@production"


class InvalidSettings(InvalidInput):
    """A setting is wrong."""

    code = "invalid-settings"
    exit_code = 78


class TooLarge(AndonError):
    """The input is larger than this server accepts."""

    code = "too-large"
    status = 413
    exit_code = 65


class NotFound(AndonError):
    """There is nothing at that address."""

    code = "not-found"
    status = 404
    exit_code = 66
    default_next_step = "run `andon ls` to see what there is"


class Gone(NotFound):
    """It was deleted; only its tombstone is left."""

    code = "gone"
    status = 410


class Forbidden(AndonError):
    """This is not allowed."""

    code = "forbidden"
    status = 403
    exit_code = 77


class Conflict(AndonError):
    """Somebody else got there first."""

    code = "conflict"
    status = 409
    exit_code = 75


class AliasMoved(Conflict):
    """The alias has moved since you looked."""

    code = "alias-moved"
    default_next_step = "read the alias again (`andon history ADDRESS`), then decide again"


class Pinned(Conflict):
    """A release that may still be rolled back to needs these bytes."""

    code = "pinned"


class LeaseHeld(Conflict):
    """Another process is doing this."""

    code = "lease-held"


class GateRefused(AndonError):
    """The gate says no."""

    code = "gate-refused"
    status = 409
    exit_code = 1
    default_next_step = "read the verdicts (`andon show ADDRESS`); fix what failed, or waive it with a person, a reason and an expiry"


class GateUndecided(AndonError):
    """The gate could not decide."""

    code = "gate-undecided"
    status = 409
    exit_code = 2


class Incompatible(AndonError):
    """These pieces do not fit together."""

    code = "incompatible"
    status = 409
    exit_code = 65


class BuildFailed(AndonError):
    """The release's environment could not be built."""

    code = "build-failed"
    status = 424
    exit_code = 69


class LoadFailed(AndonError):
    """The release's model could not be loaded."""

    code = "load-failed"
    status = 424
    exit_code = 69


class ModelFailed(AndonError):
    """The model raised an error on this request."""

    code = "model-failed"


class CorruptBytes(AndonError):
    """Stored bytes do not match their digest."""

    code = "corrupt-bytes"
    exit_code = 74
    default_next_step = "run `andon doctor` to find what is affected, and restore the bytes from a backup"


class Busy(AndonError):
    """Too much is waiting already; try again later."""

    code = "busy"
    status = 429
    exit_code = 75


class DeadlineExceeded(AndonError):
    """The request's time was up before its answer was there."""

    code = "deadline-exceeded"
    status = 504
    exit_code = 75
    default_next_step = "send it again later, or allow it more time (the header x-request-timeout-ms, or `timeout_s` of the release)"


class Unavailable(AndonError):
    """A store or service cannot be reached."""

    code = "unavailable"
    status = 503
    exit_code = 69


class ReadOnly(Unavailable):
    """This folder cannot be written to."""

    code = "read-only"
    exit_code = 73


class DiskFull(Unavailable):
    """There is no space left; nothing was acknowledged."""

    code = "disk-full"
    status = 507
    exit_code = 74
    default_next_step = "free some space, or run `andon gc`; then try again"


class OutcomeUnknown(Unavailable):
    """The connection was lost during the commit: the write may or may not have happened."""

    code = "outcome-unknown"
    default_next_step = "look whether it is there before you try again"


class PortTaken(Unavailable):
    """Another process listens on that port."""

    code = "port-taken"
    default_next_step = "choose another with --port, or --port 0 for any free one"
