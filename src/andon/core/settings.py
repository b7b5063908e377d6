"""Settings: ``andon.toml`` in the home folder, then ``ANDON_*`` in the environment, then what the caller passes.

Switching an engine is a URL here, never a code path in a caller.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from andon.core.errors import InvalidSettings

HOME_FOLDER = ".andon"
FILE_NAME = "andon.toml"
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Andon keeps things and how it listens.

    Relative paths in URLs are relative to ``home``. Each field can be set in ``andon.toml`` or as ``ANDON_`` + its name in capitals.
    """

    home: str
    """The folder that holds everything when no URL says otherwise."""
    ledger: str = "sqlite:///ledger.db"
    """``sqlite:///PATH``, ``postgresql://…`` or ``memory:``."""
    blobs: str = "file://blobs"
    """Artifact store: ``file://PATH`` or ``memory:``."""
    tables: str = "file://tables"
    """Parquet parts: ``file://PATH``."""
    inbox: str = "file://inbox"
    """Segment files of this machine; always local."""
    environments: str = "file://environments"
    """Virtual environments built for releases; always local."""
    host: str = "127.0.0.1"
    """Address that servers bind."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 4700
    """Port of ``andon up``; 0 takes any free one."""
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    """``Host`` headers that servers answer."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024
    """Larger request bodies are refused with 413."""
    max_artifact_bytes: Annotated[int, msgspec.Meta(ge=1)] = 100 * 1024**3
    """Larger files of runs and models are refused; they are streamed to the disk, so memory sets no limit."""
    otlp_endpoint: str = ""
    """Base URL of an OTLP/HTTP receiver that traces of requests are sent on to, such as ``http://127.0.0.1:4318``; empty: nowhere."""
    serve_max_memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Resident memory over which a serving process refuses new requests (429) while others are under way; 0: no bound."""
    label_fsync: bool = True
    """Whether labels are acknowledged only after fsync."""

    def path(self, url: str) -> Path:
        """The local path that a ``file://`` URL of these settings means. Raises ``InvalidSettings`` for other schemes."""
        if not url.startswith("file://"):
            raise InvalidSettings("this must be a file:// URL", got=url)
        return Path(self.home, url.removeprefix("file://"))


def find_home(start: str | os.PathLike[str] | None = None) -> Path:
    """``ANDON_HOME``, else the nearest ``.andon`` at or above ``start`` (default: here), else ``.andon`` here (made on first write)."""
    named = os.environ.get("ANDON_HOME")
    if named:
        return Path(named).absolute()
    here = Path(start or ".").absolute()
    for folder in (here, *here.parents):
        if (folder / HOME_FOLDER).is_dir():
            return folder / HOME_FOLDER
    return here / HOME_FOLDER


def load(home: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings for ``home`` (found as ``find_home`` says). Raises ``InvalidSettings`` naming the field and where it was set."""
    folder = Path(home).absolute() if home is not None else find_home()
    file = folder / FILE_NAME
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    layers = ((str(file), _from_file(file)), ("", _from_environment(os.environ if environ is None else environ)), ("the caller", overrides))
    for where, layer in layers:
        given = {field: value for field, value in layer.items() if value is not None}
        values |= given
        origin |= {field: where or f"ANDON_{field.upper()}" for field in given}
    for field in sorted(values.keys() - set(Settings.__struct_fields__)):
        raise InvalidSettings(f"there is no setting {field!r}", field=field, set_in=origin[field])
    values["home"] = str(folder)
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`").partition("[")[0]
        raise InvalidSettings(
            f"a setting has the wrong type: {text}",
            field=field or None,
            set_in=origin.get(field, "the caller"),
            got=str(values.get(field))[:80],
        ) from None


def _from_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{FILE_NAME} is not TOML: {error}", file=file) from None
    except OSError as error:
        raise InvalidSettings(f"{FILE_NAME} cannot be read: {error.strerror}", file=file) from None
    if "home" in values:
        raise InvalidSettings("the home is the folder that the file lies in", field="home", set_in=str(file))
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    named = {key.removeprefix("ANDON_").lower(): value for key, value in environ.items() if key.startswith("ANDON_")}
    # Other ANDON_* variables are for other things (ANDON_ACTOR), so an unknown one is no mistake; ANDON_HOME is find_home's.
    return {field: _from_text(field, named[field]) for field in Settings.__struct_fields__ if field in named and field != "home"}


def _from_text(field: str, text: str) -> Any:
    default = next(f for f in msgspec.structs.fields(Settings) if f.name == field).default
    where = {"field": field, "set_in": f"ANDON_{field.upper()}", "got": text[:80]}
    if isinstance(default, bool):
        if text.lower() not in _TRUE | _FALSE:
            raise InvalidSettings("this setting is true or false", **where)
        return text.lower() in _TRUE
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise InvalidSettings("this setting is a whole number", **where) from None
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
