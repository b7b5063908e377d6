"""A classifier, logged by itself."""

import json

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("iris")
mlflow.sklearn.autolog(log_input_examples=True)
rows, species = load_iris(return_X_y=True, as_frame=True)
with mlflow.start_run(run_name="logistic") as run:
    model = LogisticRegression(C=0.5, max_iter=200).fit(rows, species)
    score = model.score(rows, species)
print(json.dumps({"run": run.info.run_id, "score": score}))
