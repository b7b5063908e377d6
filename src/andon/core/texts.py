"""Text that people hand in: reasons, tags, keys."""

from __future__ import annotations

from andon.core.errors import InvalidInput

MAX_REASON_BYTES = 10_000


def check_text(text: str, field: str, *, at_most: int, at_least: int = 0) -> str:
    """Return ``text`` if every engine can keep it: Unicode without NUL, of ``at_least`` to ``at_most`` bytes. Raises ``InvalidInput``.

    >>> check_text("tone complaints", "reason", at_most=10_000)
    'tone complaints'
    """
    if not isinstance(text, str):
        raise InvalidInput(f"this is text, not {type(text).__name__}", field=field)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput("this is not valid Unicode", field=field) from None
    if "\x00" in text:
        raise InvalidInput("a NUL character cannot be kept", field=field)
    if not at_least <= size <= at_most:
        raise InvalidInput(f"this takes {at_least} to {at_most} bytes", field=field, got=size)
    return text


def check_reason(reason: str) -> str:
    """Return ``reason`` if it can be kept. Raises ``InvalidInput``."""
    return check_text(reason, "reason", at_most=MAX_REASON_BYTES)
