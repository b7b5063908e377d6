"""A model logged, registered, given an alias and loaded by it; then a second version takes the alias over."""

import json

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

NAME = "Diabetes ridge"
mlflow.set_experiment("diabetes")
rows, progress = load_diabetes(return_X_y=True, as_frame=True)
client = MlflowClient()
runs = []
for alpha in (1.0, 0.1):
    model = Ridge(alpha=alpha).fit(rows, progress)
    with mlflow.start_run(run_name=f"alpha {alpha}") as run:
        mlflow.log_param("alpha", alpha)
        mlflow.log_metric("r2", model.score(rows, progress))
        mlflow.log_input(mlflow.data.from_pandas(rows.head(50), name="diabetes"), context="training")
        info = mlflow.sklearn.log_model(model, name="ridge", input_example=rows.head(2), pip_requirements=["scikit-learn"])
    registered = mlflow.register_model(info.model_uri, NAME, tags={"alpha": str(alpha)})
    client.set_registered_model_alias(NAME, "champion", registered.version)
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    runs.append(
        {
            "run": run.info.run_id,
            "version": registered.version,
            "model": info.model_id,
            "same": bool(np.allclose(loaded.predict(rows), model.predict(rows))),
            "loaded_run": loaded.metadata.run_id,
        }
    )
by_version = mlflow.sklearn.load_model(f"models:/{NAME}/1")
print(json.dumps({"name": NAME, "runs": runs, "first_alpha": by_version.alpha}))
