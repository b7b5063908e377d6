"""Seeds: ``seed(7)`` sets and remembers them; what was seeded by other means is seen where a library lets it be seen."""

from __future__ import annotations

import os
import random
import sys

from andon.core.errors import InvalidInput

_known: dict[str, int] = {}  # what `seed` has set in this process


def seed(value: int) -> dict[str, int]:
    """Seed Python's ``random``, NumPy's legacy generator and torch (each if loaded), and remember it for this process's runs.

    Generators that you make yourself (``numpy.random.default_rng``) take their own seed: pass it the same number.
    Returns what was seeded: ``{"python": 7, "numpy": 7}``. Raises ``InvalidInput`` unless ``0 <= value < 2**32``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidInput("a seed is a whole number from 0 to 2**32 - 1", field="seed", got=str(value)[:40])
    random.seed(value)
    done = {"python": value}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(value)
        done["numpy"] = value
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(value)
        done["torch"] = value
    _known.update(done)
    return done


def observed_seeds() -> dict[str, int]:
    """Seeds set by ``seed``, and what can be read off the libraries: ``PYTHONHASHSEED``, torch's initial seed, NumPy's legacy state.

    NumPy tells only while nothing has been drawn since seeding; Python's ``random`` never does.
    """
    found: dict[str, int] = {}
    hashing = os.environ.get("PYTHONHASHSEED", "")
    if hashing.isdigit():
        found["hash"] = int(hashing)
    try:
        legacy = _numpy_legacy_seed()
        if legacy is not None:
            found["numpy"] = legacy
        torch = sys.modules.get("torch")
        if torch is not None and torch.initial_seed() < 2**32:  # torch's default is drawn from 64 bits
            found["torch"] = int(torch.initial_seed())
    except Exception:  # noqa: BLE001 - looking into other libraries' state must never fail a run
        found.setdefault("hash", 0)
        if not hashing.isdigit():
            del found["hash"]
    return found | _known


def _numpy_legacy_seed() -> int | None:
    """The seed of NumPy's legacy generator if nothing was drawn yet: the first word of a fresh state is the seed itself."""
    numpy = sys.modules.get("numpy")
    if numpy is None or "numpy.random" not in sys.modules:
        return None
    kind, keys, position, *_ = numpy.random.get_state(legacy=True)
    if kind != "MT19937" or position != 624:
        return None
    candidate = int(keys[0])
    fresh = numpy.random.RandomState(candidate).get_state(legacy=True)[1]
    return candidate if (fresh == keys).all() else None
