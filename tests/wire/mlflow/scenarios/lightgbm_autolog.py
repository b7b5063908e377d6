"""Boosted trees by LightGBM, logged by themselves."""

import json

import lightgbm
import mlflow
from sklearn.datasets import load_iris

mlflow.set_experiment("boosted")
mlflow.lightgbm.autolog()
rows, species = load_iris(return_X_y=True, as_frame=True)
train = lightgbm.Dataset(rows, species)
with mlflow.start_run(run_name="lightgbm") as run:
    settings = {"objective": "multiclass", "num_class": 3, "metric": "multi_logloss", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    model = lightgbm.train(settings, train, num_boost_round=6, valid_sets=[train], valid_names=["train"])
loaded = mlflow.lightgbm.load_model(f"runs:/{run.info.run_id}/model")
print(json.dumps({"run": run.info.run_id, "same": bool((loaded.predict(rows) == model.predict(rows)).all())}))
