"""Prompts by the stock client: registered, loaded, aliased, searched; and shown as what they are here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from andon import registry
from andon.models.prompts import PromptManifest
from andon.store import open_store

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's and its libraries'
CHAT = [{"role": "system", "content": "You are {{style}}."}, {"role": "user", "content": "{{question}}"}]


@pytest.fixture
def genai(andon_server, client):
    import mlflow
    import mlflow.genai

    mlflow.set_tracking_uri(andon_server.url)
    return mlflow.genai


def test_a_prompt_has_versions_and_aliases(genai, client, andon_server):
    first = genai.register_prompt("greeting", "Hello {{name}}", commit_message="first", tags={"author": "ana"})
    second = genai.register_prompt("greeting", "Hi {{name}}!", commit_message="shorter")
    assert (first.version, second.version) == (1, 2)
    genai.set_prompt_alias("greeting", alias="production", version=1)
    loaded = genai.load_prompt("prompts:/greeting@production", cache_ttl_seconds=0)
    assert (loaded.template, loaded.commit_message, loaded.version) == ("Hello {{name}}", "first", 1)
    assert loaded.format(name="Ana") == "Hello Ana"
    assert genai.load_prompt("prompts:/greeting/2", cache_ttl_seconds=0).template == "Hi {{name}}!"
    assert genai.load_prompt("greeting", allow_missing=True, cache_ttl_seconds=0).version == 2
    with open_store(andon_server.home) as store:
        version = registry.get(store, "prompt:greeting@production")
        assert registry.manifest_of(version, PromptManifest) == PromptManifest(template="Hello {{name}}")
        assert version.reason == "first"
    genai.delete_prompt_alias("greeting", alias="production")
    client.delete_prompt_version("greeting", "1")
    assert genai.load_prompt("prompts:/greeting/1", allow_missing=True, cache_ttl_seconds=0) is None


def test_the_command_line_shows_the_text(genai, andon_server):
    genai.register_prompt("shown", "Say {{what}} politely.")
    code = "import sys; from andon.cli.main import main; main(['show', 'prompt:shown@1'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ANDON_HOME": str(andon_server.home)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Say {{what}} politely." in done.stdout


def test_a_chat_prompt_keeps_its_messages(genai, andon_server):
    genai.register_prompt("chat", CHAT, response_format={"type": "object"})
    loaded = genai.load_prompt("prompts:/chat/1", cache_ttl_seconds=0)
    assert (loaded.template, loaded.response_format) == (CHAT, {"type": "object"})
    with open_store(andon_server.home) as store:
        manifest = registry.manifest_of(registry.get(store, "prompt:chat"), PromptManifest)
    assert (manifest.type, manifest.template, manifest.response_format) == ("chat", CHAT, {"type": "object"})


def test_prompts_and_models_do_not_mix(genai, client):
    from mlflow.exceptions import MlflowException

    genai.register_prompt("a-prompt", "text")
    client.create_registered_model("a-model")
    assert "a-prompt" in [prompt.name for prompt in genai.search_prompts()]
    assert "a-model" not in [prompt.name for prompt in genai.search_prompts()]
    assert "a-prompt" not in [model.name for model in client.search_registered_models()]
    assert "a-prompt" not in [version.name for version in client.search_model_versions()]
    with pytest.raises(MlflowException, match="exists with the same name"):
        genai.register_prompt("a-model", "text")
    with pytest.raises(MlflowException):
        client.create_registered_model("a-prompt")


def test_tags_of_a_prompt(genai, client):
    genai.register_prompt("tagged", "text", tags={"one": "1"})
    client.set_prompt_tag("tagged", "team", "rides")
    client.set_prompt_version_tag("tagged", "1", "two", "2")
    assert client.get_prompt("tagged").tags["team"] == "rides"
    assert genai.load_prompt("prompts:/tagged/1", cache_ttl_seconds=0).tags == {"one": "1", "two": "2"}
    client.delete_prompt_version_tag("tagged", "1", "one")
    assert genai.load_prompt("prompts:/tagged/1", cache_ttl_seconds=0).tags == {"two": "2"}
    client.delete_prompt_tag("tagged", "team")
    assert "team" not in client.get_prompt("tagged").tags


def test_a_text_is_its_version(genai, client):
    from mlflow.exceptions import MlflowException

    genai.register_prompt("fixed", "text")
    with pytest.raises(MlflowException, match="register a new version"):
        client.set_prompt_version_tag("fixed", "1", "mlflow.prompt.text", "another")
