"""From a filter's text to its tokens: by hand, one look at each character, so that no input takes more than linear time."""

from __future__ import annotations

from typing import Literal, NamedTuple

from andon.core.errors import InvalidInput

MAX_CHARACTERS = 400_000
"""Of one filter: room for a list of some 10,000 run ids."""
MAX_TOKENS = 60_000
_DIGITS = frozenset("0123456789")
_INNER = frozenset("$#")

TokenKind = Literal["name", "text", "number", "operator", "(", ")", ",", "other"]


class Token(NamedTuple):
    """One token. ``parts`` of a name: what is before its first dot, or None, and the rest; quotes and backticks are gone from both."""

    kind: TokenKind
    raw: str
    parts: tuple[str | None, str] = (None, "")


def tokens_of(text: str, field: str) -> list[Token]:
    """The tokens of ``text``. Raises ``InvalidInput`` naming ``field``: for a quote that is not closed, and for too much of anything."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"the {field} is longer than {MAX_CHARACTERS} characters", field=field, got=len(text))
    made: list[Token] = []
    at, end = 0, len(text)
    last = {quote: text.rfind(quote) for quote in "`\"'"}
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        token, at = _next(text, at, field, last)
        made.append(token)
        if len(made) > MAX_TOKENS:
            raise InvalidInput(f"the {field} has more than {MAX_TOKENS} words", field=field)
    return made


def _next(text: str, at: int, field: str, last: dict[str, int]) -> tuple[Token, int]:
    sign = text[at]
    if sign in "(),":
        return Token(sign, sign), at + 1  # type: ignore[arg-type]
    if sign in "=<>!":
        stop = at + 1
        while stop < len(text) and text[stop] in "=<>!":
            stop += 1
        return Token("operator", text[at:stop]), stop
    if sign == "'":
        stop = _quoted(text, at, field, last)
        return Token("text", text[at:stop]), stop
    number = _number(text, at)
    if number > at:
        return Token("number", text[at:number]), number
    if sign in '`"' or _begins(sign):
        return _name(text, at, field, last)
    return Token("other", sign), at + 1


def _name(text: str, at: int, field: str, last: dict[str, int]) -> tuple[Token, int]:
    """A name: parts between dots, each bare or quoted. One double-quoted part alone may be a text too: the parser knows where it stands."""
    begun, spans = at, []
    while True:
        stop = _quoted(text, at, field, last) if text[at] in "`\"'" else _bare(text, at)
        spans.append((at, stop))
        if stop >= len(text) or text[stop] != ".":
            break
        at = stop + 1
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text) or not (text[at] in "`\"'" or _begins(text[at])):
            raise InvalidInput(f"Invalid clause(s) in filter string: {text[begun : stop + 1]!r} ends in a dot", field=field)
    raw = text[begun:stop]
    if len(spans) == 1:
        return Token("name", raw, (None, unquoted(raw))), stop
    first = text[spans[0][0] : spans[0][1]]
    return Token("name", raw, (unquoted(first), unquoted(text[spans[1][0] : stop]))), stop


def unquoted(part: str) -> str:
    """``part`` without the quotes or backticks around it; what is inside stays as it is, as the language has no escapes."""
    for quote in "'", '"', "`":
        if len(part) >= 2 and part[0] == quote == part[-1]:
            part = part[1:-1]
            if quote == "'":
                return part
    return part


def _begins(sign: str) -> bool:
    return sign == "_" or sign.isalnum()


def _bare(text: str, at: int) -> int:
    while at < len(text) and (_begins(text[at]) or text[at] in _INNER):
        at += 1
    return at


def _quoted(text: str, at: int, field: str, last: dict[str, int]) -> int:
    """Where the text that the quote at ``at`` opens ends; a doubled quote does not close it, nor one after a backslash but the last."""
    quote, begun = text[at], at
    at += 1
    while at < len(text):
        if text[at] == quote:
            if at + 1 < len(text) and text[at + 1] == quote:
                at += 2
                continue
            return at + 1
        if text[at] == "\\" and quote != "`" and at + 1 < len(text) and text[at + 1] == quote and at + 1 < last[quote]:
            at += 2
            continue
        at += 1
    raise InvalidInput(f"Invalid {field}: the quote {quote} at character {begun + 1} is not closed", field=field)


def _number(text: str, at: int) -> int:
    """Where the number that begins at ``at`` ends; ``at`` itself when none does, or when it goes on as a word."""
    begun = at
    at += text[at] == "-"
    whole = at
    while at < len(text) and text[at] in _DIGITS:
        at += 1
    digits = at - whole
    if at < len(text) and text[at] == ".":
        at += 1
        fraction = at
        while at < len(text) and text[at] in _DIGITS:
            at += 1
        digits += at - fraction
    if not digits:
        return begun
    if at + 1 < len(text) and text[at] in "eE":
        power = at + 1 + (text[at + 1] in "+-")
        stop = power
        while stop < len(text) and text[stop] in _DIGITS:
            stop += 1
        at = stop if stop > power else at
    goes_on = at < len(text) and (_begins(text[at]) or text[at] in _INNER or text[at] == ".")
    return begun if goes_on else at
