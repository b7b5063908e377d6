"""The filter language: comparisons joined by AND, such as ``metrics.loss < 0.1 AND params.`model name` = 'tree'``. Pure: no SQL.

What can be compared is data (``Grammar``), so that every noun that is searched shares the parser. Values in quotes are taken as they
are between them; keys may stand in backticks or double quotes, and must where they hold more than letters, digits, ``_``, ``$``, ``#`` and
dots. Words such as AND and LIKE may be in either case, names may not.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import msgspec

from andon.core.errors import InvalidInput
from andon.tracking.search.tokens import Token, tokens_of, unquoted

Value = str | int | float | tuple[str, ...] | None
MAX_CLAUSES = 100
MAX_LISTED = 10_000
NUMERIC = frozenset({"=", "!=", ">", ">=", "<", "<="})
TEXTUAL = frozenset({"=", "!=", "LIKE", "ILIKE"})
LISTS = frozenset({"IN", "NOT IN"})
NULLS = frozenset({"IS NULL", "IS NOT NULL"})


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One of a kind's known keys. ``name`` is what clauses call it, whatever it was called in the text."""

    name: str
    operators: frozenset[str]
    numeric: bool = False
    orders: bool = True
    quoted: bool = False
    """Whether its numbers may stand in quotes too."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before the dot. ``keys``: the only ones there are, by every name they go by; None: any key, all alike."""

    name: str
    operators: frozenset[str] = frozenset()
    numeric: bool = False
    keys: Mapping[str, Key] | None = None
    orders: bool = True
    """Whether there may be ordered by it."""


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """The kinds by every word that stands for them; ``bare``: the word that a name without a dot is taken to have."""

    kinds: Mapping[str, Kind]
    bare: str = "attribute"


class Clause(msgspec.Struct, frozen=True):
    """A comparison. ``op`` is one of the operators above; ``value`` is None for IS NULL and IS NOT NULL, a tuple for IN and NOT IN."""

    kind: str
    key: str
    op: str
    value: Value = None


class Order(msgspec.Struct, frozen=True):
    """One key to order by."""

    kind: str
    key: str
    ascending: bool = True


def parse_filter(text: str | None, fields: Grammar) -> list[Clause]:
    """The clauses of a filter; none when it is empty. Raises ``InvalidInput`` that says what is wrong with it."""
    if not text:
        return []
    tokens = tokens_of(text, "filter")
    if not tokens:
        raise _wrong(f"Invalid filter '{text[:80]}'. Could not be parsed.")
    reader = _Reader(tokens, fields)
    clauses: list[Clause] = []
    joined = True
    while reader.token is not None:
        if reader.takes("AND"):
            joined = True
            continue
        if not joined:
            raise _wrong(f"Invalid clause(s) in filter string: expected AND before {reader.said()}")
        clauses.append(reader.clause())
        joined = False
        if len(clauses) > MAX_CLAUSES:
            raise _wrong(f"Invalid filter: it has more than {MAX_CLAUSES} clauses")
    return clauses


def parse_order(texts: Sequence[str] | None, fields: Grammar) -> list[Order]:
    """Keys to order by, each such as ``metrics.loss DESC``. Raises ``InvalidInput``; a key may be there once only."""
    orders: list[Order] = []
    for text in texts or ():
        tokens = tokens_of(text, "order_by")
        if not 1 <= len(tokens) <= 2 or tokens[0].kind != "name":
            raise _wrong(f"Invalid order_by clause '{text[:200]}'. Could not be parsed.", "order_by")
        way = tokens[1].raw.upper() if len(tokens) == 2 else "ASC"
        if way not in ("ASC", "DESC"):
            raise _wrong(f"Invalid ordering key in order_by clause '{text[:200]}'.", "order_by")
        kind, key, name = _resolved(tokens[0], fields, "order_by")
        if not kind.orders or (key is not None and not key.orders):
            raise _wrong(f"Invalid order_by entity: {kind.name} '{name}' cannot be ordered by", "order_by")
        made = Order(kind.name, name, way == "ASC")
        if any((made.kind, made.key) == (other.kind, other.key) for other in orders):
            raise _wrong(f"`order_by` contains duplicate fields: {list(texts or ())}", "order_by")
        orders.append(made)
    return orders


def render_filter(clauses: Sequence[Clause]) -> str:
    """The text of a filter that reads as these clauses. Raises ``InvalidInput`` for a key or a text that the language cannot quote."""
    return " AND ".join(render_clause(clause) for clause in clauses)


def render_clause(clause: Clause) -> str:
    """One clause's text.

    >>> render_clause(Clause("metric", "val loss", "<", 0.5))
    'metric.`val loss` < 0.5'
    """
    key = f"`{clause.key}`" if "`" not in clause.key else f'"{clause.key}"'
    bare = clause.key.replace("_", "x").isalnum() and clause.key.isascii() and not clause.key[0].isdigit()
    unsafe = not clause.key or ("`" in clause.key and ('"' in clause.key or clause.key.endswith("\\")))
    if not bare and (unsafe or unquoted(key) != clause.key):
        raise InvalidInput("this key cannot be written in a filter", field="key", got=clause.key[:80])
    name = f"{clause.kind}.{clause.key if bare else key}"
    if clause.value is None:
        return f"{name} {clause.op}"
    if isinstance(clause.value, tuple):
        return f"{name} {clause.op} ({', '.join(_in_list(item) for item in clause.value)})"
    if isinstance(clause.value, str):
        return f"{name} {clause.op} {_in_quotes(clause.value)}"
    return f"{name} {clause.op} {clause.value!r}"


def _in_list(text: str) -> str:
    """A list's text, in which nothing that is escaped ends in a quote: where a text ends is found before it is known to be in a list."""
    return repr(text).replace("\\\\", "\\x5c").replace("\\'", "\\x27")


def _in_quotes(text: str) -> str:
    for quote in "'", '"':
        if quote not in text and not text.endswith("\\"):
            return f"{quote}{text}{quote}"
    raise InvalidInput("this text cannot be written in a filter: it has both kinds of quotes", field="value", got=text[:80])


class _Reader:
    """The tokens, and where the reading stands."""

    def __init__(self, tokens: list[Token], fields: Grammar) -> None:
        self._tokens, self._fields, self._at = tokens, fields, 0

    @property
    def token(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def said(self) -> str:
        """The token that stands here, for an error."""
        return "its end" if self.token is None else f"'{self.token.raw[:80]}'"

    def takes(self, *words: str) -> bool:
        """Step over these words if they are next."""
        ahead = self._tokens[self._at : self._at + len(words)]
        if len(ahead) == len(words) and all(t.kind == "name" and t.raw.upper() == w for t, w in zip(ahead, words, strict=True)):
            self._at += len(words)
            return True
        return False

    def next(self) -> Token:
        token = self.token
        if token is None:
            raise _wrong("Invalid clause(s) in filter string: it ends where more was expected")
        self._at += 1
        return token

    def clause(self) -> Clause:
        token = self.next()
        if token.kind != "name":
            raise _wrong(f"Invalid clause(s) in filter string: expected a name such as metrics.loss, found '{token.raw[:80]}'")
        kind, key, name = _resolved(token, self._fields, "filter")
        found = self._operator(token)
        operators = kind.operators if key is None else key.operators
        if found not in operators:
            if found in NULLS:
                raise _wrong(f"IS NULL / IS NOT NULL is only supported for tags and params, not for '{kind.name}' '{name}'")
            if found in LISTS:
                raise _wrong(f"{kind.name} '{name}' does not support comparison with a list of quoted string values")
            raise _wrong(f"Invalid comparator '{found}' for {kind.name} '{name}': not one of {sorted(operators)}")
        if found in NULLS:
            return Clause(kind.name, name, found)
        if found in LISTS:
            return Clause(kind.name, name, found, self._list())
        return Clause(kind.name, name, found, self._value(kind, key, name))

    def _operator(self, name: Token) -> str:
        if self.takes("IS", "NOT", "NULL"):
            return "IS NOT NULL"
        for words in (("IS", "NULL"), ("NOT", "IN"), ("IN",), ("LIKE",), ("ILIKE",)):
            if self.takes(*words):
                return " ".join(words)
        if self.token is not None and self.token.kind == "operator":
            return self.next().raw
        raise _wrong(f"Invalid clause(s) in filter string: expected a comparator after '{name.raw[:80]}', found {self.said()}")

    def _value(self, kind: Kind, key: Key | None, name: str) -> Value:
        token = self.next()
        if kind.numeric if key is None else key.numeric:
            if key is not None and key.quoted and token.kind == "text" and token.raw[1:-1].strip().lstrip("-").isdecimal():
                return int(token.raw[1:-1][:400])
            if token.kind != "number":
                raise _wrong(f"Expected numeric value type for {kind.name} '{name}'. Found {token.raw[:80]}")
            if key is not None and token.raw.lstrip("-").isdigit():
                return int(token.raw[:400])
            return float(token.raw)
        if token.kind == "text" or (token.kind == "name" and token.parts[0] is None and token.raw[0] == '"'):
            return token.raw[1:-1]
        if token.kind == "name":
            raise _wrong(
                f"Parameter value is either not quoted or unidentified quote types used for string value {token.raw[:80]}. "
                "Use either single or double quotes."
            )
        raise _wrong(f"Expected a quoted string value for {kind.name} '{name}' (e.g. 'my-value'). Got value {token.raw[:80]}")

    def _list(self) -> tuple[str, ...]:
        token = self.next()
        if token.kind != "(":
            raise _wrong(f"Invalid clause(s) in filter string: expected a list in parentheses, found '{token.raw[:80]}'")
        items: list[str] = []
        while (token := self.next()).kind != ")":
            items.append(_listed(token))
            while (more := self.next()).kind in ("text", "name"):  # neighbours are one text, as in the language that lists come from
                items[-1] += _listed(more)
            if more.kind == ")":
                break
            if more.kind != ",":
                raise _wrong(f"While parsing a list in the query, expected a comma, but got '{more.raw[:80]}'")
            if len(items) > MAX_LISTED:
                raise _wrong(f"While parsing a list in the query: it has more than {MAX_LISTED} values")
        if not items:
            raise _wrong("While parsing a list in the query, expected a non-empty list of string values, but got empty list")
        return tuple(items)


def _listed(token: Token) -> str:
    """A list's text, in which, unlike elsewhere, a backslash escapes."""
    if token.kind == "text" or (token.kind == "name" and token.parts[0] is None and token.raw[0] == '"'):
        if "\\" not in token.raw and token.raw[0] not in token.raw[1:-1]:
            return token.raw[1:-1]
        try:
            made = ast.literal_eval(token.raw)
        except (SyntaxError, ValueError):
            made = None
        if isinstance(made, str):
            return made
        raise _wrong("While parsing a list in the query, expected a non-empty list of string values, but got ill-formed list.")
    raise _wrong(f"While parsing a list in the query, expected a quoted string value, but got '{token.raw[:80]}'")


def _resolved(token: Token, fields: Grammar, field: str) -> tuple[Kind, Key | None, str]:
    """The kind that a name is of, its key where that is one of few, and what clauses call it."""
    word, name = token.parts
    kind = fields.kinds.get(fields.bare if word is None else word)
    if kind is None:
        known = list(dict.fromkeys(each.name for each in fields.kinds.values()))
        raise _wrong(f"Invalid entity type '{str(word)[:80]}'. Valid values are {known}", field)
    if not name:
        raise _wrong(f"Invalid identifier '{token.raw[:80]}': its key is empty", field)
    if kind.keys is None:
        return kind, None, name
    key = kind.keys.get(name)
    if key is None:
        known = [each for each, known_key in kind.keys.items() if field == "filter" or known_key.orders]
        raise _wrong(f"Invalid {kind.name} key '{name[:80]}' specified. Valid keys are {known}", field)
    return kind, key, key.name


def _wrong(message: str, field: str = "filter") -> InvalidInput:
    return InvalidInput(message, field=field)
