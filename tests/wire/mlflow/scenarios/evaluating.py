"""``mlflow.models.evaluate`` on a small classifier: metrics, tables and plots as artifacts, the data as an input."""

import json

import mlflow
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

mlflow.set_experiment("evaluation")
rows, malignant = load_breast_cancer(return_X_y=True, as_frame=True)
rows = rows.iloc[:, :5]
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:400], malignant[:400])
held_out = rows[400:].assign(label=malignant[400:])
with mlflow.start_run(run_name="evaluated") as run:
    info = mlflow.sklearn.log_model(model, name="model", input_example=rows.head(2), pip_requirements=["scikit-learn"])
    result = mlflow.models.evaluate(
        info.model_uri,
        held_out,
        targets="label",
        model_type="classifier",
        evaluator_config={"log_explainer": False, "log_model_explainability": False},
    )
    static = mlflow.models.evaluate(
        data=pd.DataFrame({"label": [1, 0, 1], "said": [1, 0, 0]}), targets="label", predictions="said", model_type="classifier"
    )
print(
    json.dumps(
        {
            "run": run.info.run_id,
            "model": info.model_id,
            "accuracy": result.metrics["accuracy_score"],
            "artifacts": sorted(result.artifacts),
            "static": static.metrics["accuracy_score"],
        }
    )
)
