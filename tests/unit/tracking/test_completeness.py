"""What belongs in a run, and what is missing from it."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge

from andon import datasets
from andon.core.actors import Actor
from andon.tracking import completeness_of, create_run, seed, start_run

ANA = Actor("person", "ana")
X = np.random.default_rng(0).normal(size=(30, 2))


def test_an_empty_run_lacks_nearly_all_and_says_what_to_do(store):
    run = create_run(store, actor=ANA)
    found = completeness_of(store, run.id)
    assert found.score == 0.0
    assert set(found.missing) >= {"commit", "environment lock", "data", "params", "metrics", "seeds"}
    assert all(part.advice for part in found.parts if not part.present)


def test_a_whole_run_lacks_nothing(store, monkeypatch, tmp_path):
    import subprocess

    (tmp_path / "a.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "1"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("__main__.__file__", "a.py", raising=False)  # a worker of xdist has no script of its own
    datasets.register(store, "d", {"a": [1]}, actor=ANA)
    seed(1)
    with start_run(store, actor=ANA, params={"alpha": 1}) as run:
        datasets.read(store, "dataset:d")
        run.log({"mae": 1.0})
        run.flush()
        run.log_model(Ridge().fit(X, X[:, 0]), "m", input_example=X[:3])
        running = completeness_of(store, run.id)
    assert running.missing[-1] == "an end"
    assert set(completeness_of(store, run.id).missing) <= {"installable environment"}


def test_a_pickle_is_flagged(store):
    with start_run(store, actor=ANA, capture=False) as run:
        run.log_model(Ridge().fit(X, X[:, 0]), "m", input_example=X[:3], format="pickle")
    assert "safe model format" in completeness_of(store, run.id).missing


def test_the_score_grows_with_each_thing(store):
    scores = []
    with start_run(store, actor=ANA, capture=False) as run:
        for act in (lambda: run.log({"a": 1.0}), run.flush, lambda: run.log_params({"b": 1}), lambda: run.log_artifact(b"", "c")):
            act()
            scores.append(completeness_of(store, run.id).score)
    assert scores[1] < scores[2] < scores[3] < completeness_of(store, run.id).score < 1
