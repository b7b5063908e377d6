"""Digests: BLAKE3 over bytes, and over the canonical JSON of a value, written ``b3:`` and 64 hex digits.

Canonical JSON sorts object keys by code point, writes no spaces, refuses NaN and infinities, and writes ``1.0`` and ``1`` differently:
a manifest is compared as it was given. Strings are UTF-8 as they are, with no Unicode normalisation.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from andon.core.errors import InvalidInput

_DIGEST = re.compile(r"b3:[0-9a-f]{64}")
_LEAST, _MOST = -(2**63), 2**64 - 1
_encoder = msgspec.json.Encoder(order="sorted")


def digest_bytes(data: bytes | memoryview) -> str:
    """The digest of ``data``.

    >>> digest_bytes(b"")[:19]
    'b3:af1349b9f5f9a1a6'
    """
    return "b3:" + blake3(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """The digest of a file's bytes, read through a memory map."""
    hasher = blake3()
    if Path(path).stat().st_size:  # an empty file cannot be mapped
        hasher.update_mmap(path)
    return "b3:" + hasher.hexdigest()


def digest_json(value: Any) -> str:
    """The digest of a value's canonical JSON; equal for equal values whatever the order of keys.

    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    """
    return digest_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """Canonical JSON of a JSON-like value or msgspec struct. Raises ``InvalidInput`` naming what JSON cannot hold.

    That is: NaN and infinities, whole numbers beyond 64 bits (they would come back rounded), keys that are not text, lone surrogates.
    """
    try:
        plain = msgspec.to_builtins(value, order="sorted")
        _refuse(plain, "$")
        return _encoder.encode(plain)
    except UnicodeEncodeError:
        raise InvalidInput("this text is not valid Unicode") from None
    except RecursionError:
        raise InvalidInput("this value is nested too deeply") from None
    except TypeError as error:
        raise InvalidInput(f"this value has no JSON form: {error}") from None


def _refuse(value: Any, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput("NaN and infinities have no canonical JSON", field=path, got=str(value))
    elif isinstance(value, int):
        if not _LEAST <= value <= _MOST:
            raise InvalidInput("a whole number has at most 64 bits", field=path)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInput("the keys of a JSON object are text", field=path, got=repr(key)[:80])
            _refuse(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _refuse(item, f"{path}[{position}]")


def check_digest(text: str) -> str:
    """Return ``text`` if it is a digest, else raise ``InvalidInput``."""
    if not _DIGEST.fullmatch(text):
        raise InvalidInput("a digest is b3: and 64 hex digits", field="digest", got=text[:80])
    return text
