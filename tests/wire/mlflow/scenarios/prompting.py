"""Prompts: registered, changed, aliased, loaded, found."""

import json

import mlflow

mlflow.set_experiment("prompted")
one = mlflow.genai.register_prompt("greeting", "Hello {{name}}", commit_message="first", tags={"tone": "warm"})
two = mlflow.genai.register_prompt("greeting", "Bye {{name}}")
mlflow.genai.set_prompt_alias("greeting", "production", one.version)
by_alias = mlflow.genai.load_prompt("prompts:/greeting@production")
by_version = mlflow.genai.load_prompt("greeting", version=2)
names = [prompt.name for prompt in mlflow.genai.search_prompts()]
models = [model.name for model in mlflow.MlflowClient().search_registered_models()]
missing = mlflow.genai.load_prompt("nobody", version=1, allow_missing=True)
print(
    json.dumps(
        {
            "versions": [int(one.version), int(two.version)],
            "said": by_alias.format(name="Ana"),
            "template": by_version.template,
            "tags": by_alias.tags,
            "message": by_alias.commit_message,
            "names": names,
            "models": models,
            "missing": missing,
        }
    )
)
