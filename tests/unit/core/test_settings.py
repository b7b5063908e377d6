"""Settings: three layers, and a mistake in any of them names the field and where it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from andon.core.errors import InvalidSettings
from andon.core.settings import Settings, find_home, load


def _write(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "andon.toml").write_text(text)
    return home


def test_each_layer_is_over_the_one_before(tmp_path: Path) -> None:
    home = _write(tmp_path, 'port = 1\nhost = "a"\nallowed_hosts = ["x"]')
    found = load(home, environ={"ANDON_PORT": "2", "ANDON_HOST": "b", "ANDON_ACTOR": "person:ana", "ANDON_HOME": "/elsewhere"}, port=3)
    assert (found.port, found.host, found.allowed_hosts, found.home) == (3, "b", ("x",), str(tmp_path))
    assert load(tmp_path / "none", environ={}) == Settings(home=str(tmp_path / "none"))


def test_text_from_the_environment_takes_each_fields_type(tmp_path: Path) -> None:
    environ = {"ANDON_LABEL_FSYNC": "off", "ANDON_ALLOWED_HOSTS": "a, b,", "ANDON_MAX_BODY_BYTES": "10"}
    found = load(tmp_path, environ=environ)
    assert (found.label_fsync, found.allowed_hosts, found.max_body_bytes) == (False, ("a", "b"), 10)


@pytest.mark.parametrize(
    ("toml", "environ", "given", "field", "where"),
    [
        ("prot = 1", {}, {}, "prot", "andon.toml"),
        ("port = 'x'", {}, {}, "port", "andon.toml"),
        ("port = 70000", {}, {}, "port", "andon.toml"),
        ("port = -1", {}, {}, "port", "andon.toml"),
        ("label_fsync = 1", {}, {}, "label_fsync", "andon.toml"),
        ("allowed_hosts = [1]", {}, {}, "allowed_hosts", "andon.toml"),
        ("home = '/x'", {}, {}, "home", "andon.toml"),
        ("", {"ANDON_PORT": "x"}, {}, "port", "ANDON_PORT"),
        ("", {"ANDON_PORT": "70000"}, {}, "port", "ANDON_PORT"),
        ("", {"ANDON_LABEL_FSYNC": "maybe"}, {}, "label_fsync", "ANDON_LABEL_FSYNC"),
        ("", {"ANDON_MAX_BODY_BYTES": "0"}, {}, "max_body_bytes", "ANDON_MAX_BODY_BYTES"),
        ("port = 1", {"ANDON_PORT": "2"}, {"port": "x"}, "port", "the caller"),
        ("", {}, {"colour": "red"}, "colour", "the caller"),
    ],
)
def test_a_mistake_names_the_field_and_where_it_was_set(
    tmp_path: Path, toml: str, environ: dict[str, str], given: dict[str, object], field: str, where: str
) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(_write(tmp_path, toml), environ=environ, **given)
    assert caught.value.fields["field"] == field
    assert str(caught.value.fields["set_in"]).endswith(where)


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "andon.toml").write_bytes(content)
    with pytest.raises(InvalidSettings, match="not TOML") as caught:
        load(tmp_path, environ={})
    assert caught.value.fields["file"] == tmp_path / "andon.toml"


def test_home_is_the_nearest_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDON_HOME", raising=False)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_home(inner) == inner / ".andon"
    (tmp_path / ".andon").mkdir()
    assert find_home(inner) == tmp_path / ".andon"
    monkeypatch.setenv("ANDON_HOME", str(tmp_path / "named"))
    assert find_home(inner) == tmp_path / "named"


def test_a_url_means_a_path_under_home() -> None:
    settings = Settings(home="/h")
    assert settings.path("file://blobs") == Path("/h/blobs")
    assert settings.path("file:///abs") == Path("/abs")
    with pytest.raises(InvalidSettings):
        settings.path("s3://bucket")
