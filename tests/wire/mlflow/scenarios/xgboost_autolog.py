"""Boosted trees by XGBoost, logged by themselves."""

import json

import mlflow
import xgboost
from sklearn.datasets import load_iris

mlflow.set_experiment("boosted")
mlflow.xgboost.autolog()
rows, species = load_iris(return_X_y=True, as_frame=True)
train = xgboost.DMatrix(rows, label=species)
with mlflow.start_run(run_name="xgboost") as run:
    settings = {"objective": "multi:softprob", "num_class": 3, "eval_metric": "mlogloss", "max_depth": 3, "nthread": 1}
    model = xgboost.train(settings, train, num_boost_round=6, evals=[(train, "train")])
loaded = mlflow.xgboost.load_model(f"runs:/{run.info.run_id}/model")
print(json.dumps({"run": run.info.run_id, "same": bool((loaded.predict(train) == model.predict(train)).all())}))
