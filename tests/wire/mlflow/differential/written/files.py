"""Artifacts, and paths that lead astray."""

from __future__ import annotations

from tests.wire.mlflow.differential.cases import Case, Step, get, post, put
from tests.wire.mlflow.differential.written.beginnings import ARTIFACTS, EXPERIMENT, MODEL, RUN, version

AJAX = "/ajax-api/2.0/mlflow/"


def _artifacts() -> list[Case]:
    here = "<<exp>>/<<run>>/artifacts/"
    evil = [
        "../x",
        "..%2fx",
        "%2e%2e/x",
        "..%5cx",
        "a/../../x",
        "a\\..\\x",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "a%00b",
        "a/./b",
        "C:/x",
        "file:///etc/passwd",
        "a%23b",
        "a%3fb",
        "%252e%252e/x",
        "..;/x",
        "~/x",
        ".",
        "..",
        "",
        "a//b",
        "%C0%AE%C0%AE/x",
        "proc/self/environ",
    ]
    return [
        Case(
            "artifacts/life",
            [
                EXPERIMENT,
                RUN,
                put(here + "a.txt", 10),
                put(here + "dir/b.bin", 5000),
                put(here + "dir/deep/c.json", 0),
                put(here + "a.txt", 20),
                put(here + "sp ace/ü.txt", 3),
                put(here + "page.html", 50),
                Step("GET", ARTIFACTS + "artifacts/" + here + "a.txt"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "dir/b.bin"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "dir/deep/c.json"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "sp ace/ü.txt"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "none"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "dir"),
                *[
                    Step("GET", ARTIFACTS + "artifacts", query=[("path", "<<exp>>/<<run>>/artifacts" + rest)])
                    for rest in ("", "/", "/dir", "/a.txt", "/none", "/dir/deep")
                ],
                Step("GET", ARTIFACTS + "artifacts", query=[("path", "none/at/all")]),
                *[
                    get("artifacts/list", run_id="<<run>>", path=path)
                    for path in ("dir", "a.txt", "none", "../", "/etc", "dir/..", "%2e%2e")
                ],
                get("artifacts/list", run_id="<<run>>"),
                get("artifacts/list"),
                Step("GET", "/get-artifact", query=[("run_uuid", "<<run>>"), ("path", "a.txt")]),
                Step("GET", "/get-artifact", query=[("run_id", "<<run>>"), ("path", "dir/b.bin")]),
                Step("GET", "/get-artifact", query=[("run_id", "<<run>>"), ("path", "none")]),
                Step("GET", "/get-artifact", query=[("run_id", "<<run>>"), ("path", "../a")]),
                Step("GET", "/get-artifact", query=[("path", "a")]),
                Step("DELETE", ARTIFACTS + "artifacts/" + here + "dir"),
                Step("DELETE", ARTIFACTS + "artifacts/" + here + "none"),
                get("artifacts/list", run_id="<<run>>"),
                Step("DELETE", ARTIFACTS + "artifacts/" + here + "a.txt"),
                Step("GET", ARTIFACTS + "artifacts/" + here + "a.txt"),
            ],
        ),
        Case(
            "artifacts/evil",
            [
                EXPERIMENT,
                RUN,
                put(here + "a.txt", 10),
                *[Step("GET", ARTIFACTS + "artifacts/" + here + path) for path in evil],
                *[
                    Step("PUT", ARTIFACTS + "artifacts/" + here + path, size=3)
                    for path in evil
                    if path not in ("", ".", "..", "~/x", "..;/x", "proc/self/environ", "a/./b", "a//b", "C:/x")
                ],
                *[Step("GET", ARTIFACTS + "artifacts", query=[("path", here + path)]) for path in evil],
                *[Step("DELETE", ARTIFACTS + "artifacts/" + here + path) for path in ("../x", "%2e%2e/x", "a%00b", "/etc/passwd")],
                *[
                    Step("GET", ARTIFACTS + "artifacts", query=[("path", path)])
                    for path in ("..", "/", "../../etc", "file:///etc", "%2e%2e")
                ],
            ],
        ),
        Case(
            "artifacts/in-parts",
            [
                EXPERIMENT,
                RUN,
                Step("POST", ARTIFACTS + "mpu/create/" + here, json={"path": "big", "num_parts": 2}),
                Step("POST", ARTIFACTS + "mpu/create/" + here + "big", json={}),
                Step("POST", ARTIFACTS + "mpu/complete/" + here + "big", json={"path": "big", "upload_id": "x", "parts": []}),
                Step("POST", ARTIFACTS + "mpu/abort/" + here + "big", json={"path": "big", "upload_id": "x"}),
                Step("GET", ARTIFACTS + "presigned/" + here + "big"),
                post("artifacts/presigned-upload-url", {"run_id": "<<run>>", "path": "x"}),
                post("artifacts/presigned-download-url", {"run_id": "<<run>>", "path": "x"}),
            ],
        ),
    ]


def _of_the_board() -> list[Case]:
    here = "<<exp>>/<<run>>/artifacts/"
    by_run = [("run_uuid", "<<run>>"), ("path", "a.txt")]
    return [
        Case(
            "files/of-the-board",
            [
                EXPERIMENT,
                RUN,
                put(here + "a.txt", 10),
                put(here + "m/model.bin", 30),
                Step("GET", AJAX + "get-artifact", query=by_run),
                Step("HEAD", AJAX + "get-artifact", query=by_run),
                Step("HEAD", "/get-artifact", query=by_run),
                Step("HEAD", "/api/2.0/mlflow-artifacts/artifacts/" + here + "a.txt"),
                Step("POST", AJAX + "upload-artifact", query=[("run_uuid", "<<run>>"), ("path", "up/b.txt")], size=7),
                Step("POST", AJAX + "upload-artifact", query=[("run_uuid", "<<run>>"), ("path", "../b.txt")], size=7),
                Step("POST", AJAX + "upload-artifact", size=7),
                get("artifacts/list", run_id="<<run>>", path="up"),
                MODEL,
                version(run_id="<<run>>", source="mlflow-artifacts:/<<exp>>/<<run>>/artifacts/m"),
                *[
                    Step(method, path + "model-versions/get-artifact", query=[("name", "<<case>>"), ("version", "1"), ("path", file)])
                    for method, path, file in (
                        ("GET", "/", "model.bin"),
                        ("GET", AJAX, "model.bin"),
                        ("HEAD", "/", "model.bin"),
                        ("GET", "/", "none"),
                        ("GET", "/", "../a.txt"),
                    )
                ],
                Step("GET", "/model-versions/get-artifact", query=[("name", "none"), ("version", "1"), ("path", "x")]),
                post("logged-models", {"experiment_id": "<<exp>>", "name": "lm"}, model="model.info.model_id"),
                put("<<exp>>/models/<<model>>/artifacts/w/c.bin", 12),
                get("logged-models/<<model>>/artifacts/directories"),
                get("logged-models/<<model>>/artifacts/directories", artifact_directory_path="w"),
                *[
                    Step("GET", AJAX + "logged-models/<<model>>/artifacts/files", query=[("artifact_file_path", file)])
                    for file in ("w/c.bin", "none", "../x")
                ],
            ],
        ),
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*_artifacts(), *_of_the_board()]
