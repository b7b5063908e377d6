"""Registered models, their versions and aliases, prompts."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, Step, delete, get, patch, post
from tests.wire.mlflow.differential.written.beginnings import EXPERIMENT, MODEL, RUN, version


def _registered() -> list[Case]:
    tags = [{"key": "team", "value": "a"}, {"key": "more", "value": "✓"}]
    return [
        Case(
            "models/life",
            [
                post("registered-models/create", {"name": "<<case>>", "description": "first", "tags": tags}),
                post("registered-models/create", {"name": "<<case>>"}),
                get("registered-models/get", name="<<case>>"),
                patch("registered-models/update", {"name": "<<case>>", "description": "second"}),
                patch("registered-models/update", {"name": "<<case>>"}),
                post("registered-models/set-tag", {"name": "<<case>>", "key": "team", "value": "b"}),
                post("registered-models/set-tag", {"name": "<<case>>", "key": "", "value": "b"}),
                post("registered-models/set-tag", {"name": "<<case>>", "key": "long", "value": "x" * 100_001}),
                delete("registered-models/delete-tag", {"name": "<<case>>", "key": "more"}),
                delete("registered-models/delete-tag", {"name": "<<case>>", "key": "more"}),
                get("registered-models/get", name="<<case>>"),
                version(),
                version(description="v2", tags=tags, run_link="http://there/run"),
                post("registered-models/rename", {"name": "<<case>>", "new_name": "<<case>>-2"}),
                get("registered-models/get", name="<<case>>"),
                get("registered-models/get", name="<<case>>-2"),
                get("model-versions/get", name="<<case>>-2", version="2"),
                post("registered-models/rename", {"name": "<<case>>-2", "new_name": "<<case>>-2"}),
                post("registered-models/rename", {"name": "<<case>>-2"}),
                delete("registered-models/delete", {"name": "<<case>>-2"}),
                delete("registered-models/delete", {"name": "<<case>>-2"}),
                get("registered-models/get", name="<<case>>-2"),
                post("registered-models/create", {"name": "<<case>>-2"}),
                version("<<case>>-2"),
            ],
        ),
        Case(
            "models/missing",
            [
                get("registered-models/get", name="<<case>>"),
                get("registered-models/get"),
                patch("registered-models/update", {"name": "<<case>>", "description": "x"}),
                post("registered-models/rename", {"name": "<<case>>", "new_name": "y"}),
                delete("registered-models/delete", {"name": "<<case>>"}),
                delete("registered-models/delete"),
                post("registered-models/set-tag", {"name": "<<case>>", "key": "k", "value": "v"}),
                delete("registered-models/delete-tag", {"name": "<<case>>", "key": "k"}),
                post("registered-models/alias", {"name": "<<case>>", "alias": "a", "version": "1"}),
                get("registered-models/alias", name="<<case>>", alias="a"),
                delete("registered-models/alias", {"name": "<<case>>", "alias": "a"}),
                version(),
                get("model-versions/get", name="<<case>>", version="1"),
                get("model-versions/get", name="<<case>>"),
                get("model-versions/get-download-uri", name="<<case>>", version="1"),
                post("registered-models/get-latest-versions", {"name": "<<case>>"}),
                patch("model-versions/update", {"name": "<<case>>", "version": "1", "description": "x"}),
                delete("model-versions/delete", {"name": "<<case>>", "version": "1"}),
                post(
                    "model-versions/transition-stage",
                    {"name": "<<case>>", "version": "1", "stage": "Production", "archive_existing_versions": False},
                ),
                post("model-versions/set-tag", {"name": "<<case>>", "version": "1", "key": "k", "value": "v"}),
                delete("model-versions/delete-tag", {"name": "<<case>>", "version": "1", "key": "k"}),
            ],
        ),
        Case(
            "models/odd-names",
            [
                post("registered-models/create", {"name": name})
                for name in (
                    "",
                    " ",
                    "<<case>>/a",
                    "<<case>>:a",
                    "<<case>> b",
                    "<<case>> ☃",
                    "<<case>> " + "x" * 200,
                    "<<case>> " + "x" * 260,
                    "<<case>>.b",
                    "<<case>>\n",
                    "<<case>>%2e",
                    "../<<case>>",
                )
            ],
        ),
        Case(
            "versions/life",
            [
                MODEL,
                EXPERIMENT,
                RUN,
                version(run_id="<<run>>", tags=tags, description="one"),
                version(run_id="<<run>>"),
                version(run_id="<<run>>", source="s3://b/other"),
                get("model-versions/get", name="<<case>>", version="1"),
                get("model-versions/get", name="<<case>>", version="01"),
                get("model-versions/get", name="<<case>>", version="9"),
                get("model-versions/get", name="<<case>>", version="x"),
                get("model-versions/get-download-uri", name="<<case>>", version="1"),
                get("registered-models/get", name="<<case>>"),
                patch("model-versions/update", {"name": "<<case>>", "version": "1", "description": "uno"}),
                post("model-versions/set-tag", {"name": "<<case>>", "version": "1", "key": "team", "value": "b"}),
                post("model-versions/set-tag", {"name": "<<case>>", "version": "9", "key": "team", "value": "b"}),
                delete("model-versions/delete-tag", {"name": "<<case>>", "version": "1", "key": "more"}),
                get("model-versions/get", name="<<case>>", version="1"),
                delete("model-versions/delete", {"name": "<<case>>", "version": "3"}),
                delete("model-versions/delete", {"name": "<<case>>", "version": "3"}),
                get("model-versions/get", name="<<case>>", version="3"),
                version(),
                get("registered-models/get", name="<<case>>"),
            ],
        ),
        Case(
            "versions/sources",
            [
                MODEL,
                EXPERIMENT,
                RUN,
                *[
                    version(source=source)
                    for source in (
                        "",
                        "mlflow-artifacts:/1/x/artifacts/model",
                        "file:///etc/passwd",
                        "/etc/passwd",
                        "models:/<<case>>/1",
                        "models:/none/1",
                        "models:/<<case>>@none",
                        "runs:/<<run>>/model",
                        "s3://b/a/../../c",
                        "s3://b/%2e%2e/c",
                        "not a uri",
                        "../x",
                        "https://h/x",
                        "mlflow-artifacts:/../../etc",
                        "dbfs:/x",
                        "models:/m-" + "0" * 32,
                    )
                ],
                version(run_id="0" * 32),
                version(run_id="<<run>>", source="mlflow-artifacts:/<<exp>>/<<run>>/artifacts/model"),
                version(run_id="<<run>>", source="mlflow-artifacts:/<<exp>>/<<run>>/artifacts/../../x"),
                post("model-versions/create", {"name": "<<case>>"}),
                post("model-versions/create", {"source": "s3://b/x"}),
                version(model_id="m-" + "0" * 32),
            ],
        ),
        Case(
            "versions/aliases",
            [
                MODEL,
                version(),
                version(),
                *[
                    post("registered-models/alias", {"name": "<<case>>", "alias": alias, "version": number})
                    for alias, number in (
                        ("champion", "1"),
                        ("other", "1"),
                        ("champion", "2"),
                        ("champion", 2),
                        ("champion", "9"),
                        ("champion", "x"),
                        ("latest", "1"),
                        ("v1", "1"),
                        ("V2", "1"),
                        ("a b", "1"),
                        ("a/b", "1"),
                        ("", "1"),
                        ("x" * 255, "1"),
                        ("x" * 256, "1"),
                        ("☃", "1"),
                        ("UPPER", "1"),
                        ("a.b-c_d", "2"),
                        ("5", "1"),
                        ("@x", "1"),
                    )
                ],
                get("registered-models/alias", name="<<case>>", alias="champion"),
                get("registered-models/alias", name="<<case>>", alias="Champion"),
                get("registered-models/alias", name="<<case>>", alias="none"),
                get("registered-models/alias", name="<<case>>"),
                get("registered-models/alias", alias="champion"),
                get("registered-models/get", name="<<case>>"),
                get("model-versions/get", name="<<case>>", version="1"),
                delete("registered-models/alias", {"name": "<<case>>", "alias": "other"}),
                delete("registered-models/alias", {"name": "<<case>>", "alias": "other"}),
                Step("DELETE", "/api/2.0/mlflow/registered-models/alias", query=[("name", "<<case>>"), ("alias", "champion")]),
                delete("model-versions/delete", {"name": "<<case>>", "version": "2"}),
                get("registered-models/alias", name="<<case>>", alias="champion"),
                get("registered-models/get", name="<<case>>"),
            ],
        ),
        Case(
            "versions/stages",
            [
                MODEL,
                version(),
                version(),
                version(),
                *[
                    post(
                        "model-versions/transition-stage",
                        {"name": "<<case>>", "version": number, "stage": stage, "archive_existing_versions": archive},
                    )
                    for number, stage, archive in (
                        ("1", "Production", False),
                        ("2", "Staging", False),
                        ("2", "production", True),
                        ("3", "Nowhere", False),
                        ("3", "None", False),
                        ("3", "Archived", True),
                        ("9", "Staging", False),
                        ("3", "", False),
                        ("1", "None", True),
                    )
                ],
                post("model-versions/transition-stage", {"name": "<<case>>", "version": "1", "stage": "Staging"}),
                get("registered-models/get", name="<<case>>"),
                post("registered-models/get-latest-versions", {"name": "<<case>>"}),
                post("registered-models/get-latest-versions", {"name": "<<case>>", "stages": ["Production"]}),
                post("registered-models/get-latest-versions", {"name": "<<case>>", "stages": ["nowhere"]}),
                get("registered-models/get-latest-versions", name="<<case>>", stages=["None", "Archived"]),
                get("model-versions/search", filter="name='<<case>>'"),
            ],
        ),
    ]


def _registry_search() -> list[Case]:
    made: list[Step] = []
    for n in range(4):
        made.append(
            post(
                "registered-models/create",
                {"name": f"Found-{n}", "tags": [{"key": "n", "value": str(n)}, {"key": "found", "value": "yes"}]},
            )
        )
        made += [version(f"Found-{n}", run_id="", source="s3://found/model", tags=[{"key": "v", "value": str(v)}]) for v in range(n)]
    made.append(post("registered-models/create", {"name": "Found-prompt", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}))
    models = [
        "name = 'Found-1'",
        "name LIKE 'Found%'",
        "name ILIKE 'found-%'",
        "tags.n = '2'",
        "tags.found = 'yes' AND tags.n != '2'",
        "tags.`n` = '3'",
        "name != 'Found-1' AND tags.found = 'yes'",
        "name IN ('Found-1')",
        "version = 1",
        "nothing = 'x'",
        "garbage",
        "name LIKE 'Found%' OR name = 'b'",
        "tags.`mlflow.prompt.is_prompt` = 'true'",
        "tags.`mlflow.prompt.is_prompt` = 'true' AND name LIKE 'Found%'",
        "tags.n > '1'",
        "name LIKE 5",
        "name = 'it''s'",
        "name LIKE 'F_und-1'",
        "name LIKE 'Found-[1]'",
    ]
    versions = [
        "name = 'Found-3'",
        "name LIKE 'Found-%'",
        "name ILIKE 'found-%'",
        "name='Found-3' and tags.v = '1'",
        "tags.v = '1'",
        "run_id = 'x'",
        "run_id IN ('x')",
        "source_path = 's3://found/model'",
        "source_path LIKE 's3%' AND name = 'Found-3'",
        "version_number = 2 AND name LIKE 'Found%'",
        "version_number > 1 AND name LIKE 'Found%'",
        "version_number = '2'",
        "version = 2",
        "nothing = 'x'",
        "garbage",
        "name = 'Found-3' AND tags.v != '1'",
        "name != 'Found-3' AND name LIKE 'Found%'",
        "name IN ('Found-1', 'Found-3')",
        "status = 'READY'",
        "creation_timestamp > 0 AND name LIKE 'Found%'",
        "tags.`v` LIKE '%' AND name = 'Found-3'",
    ]
    some = "name LIKE 'Found%'"
    model_orders = [
        ["name"],
        ["name DESC"],
        ["timestamp", "name"],
        ["last_updated_timestamp DESC", "name"],
        ["creation_timestamp"],
        ["tags.n"],
        ["name", "name"],
        ["name sideways"],
    ]
    version_orders = [
        ["name", "version_number"],
        ["version_number DESC", "name ASC"],
        ["creation_timestamp", "name", "version_number"],
        ["last_updated_timestamp DESC", "name", "version_number"],
        ["version"],
        ["nothing"],
    ]
    return [
        Case(
            "models/search",
            [
                *made,
                *[get("registered-models/search", filter=text) for text in models],
                *[get("registered-models/search", filter=some, order_by=order) for order in model_orders],
                *[get("registered-models/search", filter=some, max_results=size) for size in (0, -1, 1000, 1001, "x")],
                get("registered-models/search", {"page": "next_page_token"}, filter=some, max_results=2),
                get("registered-models/search", {"page": "next_page_token"}, filter=some, max_results=2, page_token="<<page>>"),
                get("registered-models/search", filter=some, max_results=2, page_token="<<page>>"),
                get("registered-models/search", filter=some, max_results=2, page_token="junk"),
                *[get("model-versions/search", filter=text, order_by=["name", "version_number"]) for text in versions],
                *[get("model-versions/search", filter=some, order_by=order) for order in version_orders],
                *[
                    get("model-versions/search", filter=some, max_results=size, order_by=["name", "version_number"])
                    for size in (0, -1, 200_000, 200_001)
                ],
                get("model-versions/search", {"page": "next_page_token"}, filter=some, max_results=4, order_by=["name", "version_number"]),
                get("model-versions/search", filter=some, max_results=4, page_token="<<page>>", order_by=["name", "version_number"]),
                get("model-versions/search", filter=some, max_results=2, page_token="junk"),
                Step("POST", "/api/2.0/mlflow/registered-models/search", json={"filter": some}),
            ],
        ),
    ]


def _prompts() -> list[Case]:
    is_prompt = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    text = {"key": "mlflow.prompt.text", "value": "Hello {{name}}"}
    return [
        Case(
            "prompts/life",
            [
                post("registered-models/create", {"name": "<<case>>", "tags": [is_prompt]}),
                version(source="dummy-source", tags=[is_prompt, text], description="first"),
                version(source="dummy-source", tags=[is_prompt, text | {"value": "Bye"}]),
                get("registered-models/get", name="<<case>>"),
                get("model-versions/get", name="<<case>>", version="1"),
                post("registered-models/alias", {"name": "<<case>>", "alias": "production", "version": "1"}),
                get("registered-models/alias", name="<<case>>", alias="production"),
                get("model-versions/search", filter="name='<<case>>'", order_by=["version_number DESC"]),
                get(
                    "model-versions/search",
                    filter="name='<<case>>' AND tags.`mlflow.prompt.is_prompt` = 'true'",
                    order_by=["version_number DESC"],
                ),
                get("registered-models/search", filter="name='<<case>>'"),
                get("registered-models/search", filter="name='<<case>>' AND tags.`mlflow.prompt.is_prompt` = 'true'"),
                get("registered-models/search", filter="name='<<case>>' AND tags.`mlflow.prompt.is_prompt` != 'true'"),
                version(source="s3://b/x"),
                version(source=""),
                post("registered-models/create", {"name": "<<case>>"}),
                delete("model-versions/delete", {"name": "<<case>>", "version": "1"}),
                delete("registered-models/delete", {"name": "<<case>>"}),
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_registered(), *_registry_search(), *_prompts()]
