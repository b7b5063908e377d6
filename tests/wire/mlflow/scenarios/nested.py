"""A search over settings: a parent, a child for each, and what a person keeps beside the numbers."""

import json
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd

mlflow.set_experiment("search")
children = []
with mlflow.start_run(run_name="all", description="# Why\nto see", tags={"team": "blue"}) as parent:
    for rate in (0.1, 0.2, 0.3):
        with mlflow.start_run(run_name=f"rate {rate}", nested=True) as child:
            mlflow.log_param("rate", rate)
            for step in range(5):
                mlflow.log_metric("loss", rate / (step + 1), step=step)
            children.append(child.info.run_id)
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    mlflow.log_figure(figure, "figures/line.png")
    mlflow.log_table({"question": ["a", "b"], "answer": [1, 2]}, "answers.json")
    mlflow.log_table(pd.DataFrame({"question": ["c"], "answer": [3]}), "answers.json")
    mlflow.log_dict({"k": [1, 2]}, "kept/settings.yaml")
    mlflow.log_text("hello ☃", "kept/note.txt")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="stepped", step=1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deep").mkdir()
        (Path(folder) / "deep" / "data.bin").write_bytes(bytes(range(256)) * 1000)
        (Path(folder) / "sp ace ü.txt").write_text("odd")
        mlflow.log_artifacts(folder, "folder")
table = mlflow.load_table("answers.json", run_ids=[parent.info.run_id])
back = mlflow.artifacts.download_artifacts(f"runs:/{parent.info.run_id}/folder")
found = mlflow.search_runs(
    experiment_names=["search"], filter_string=f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["params.rate DESC"]
)
print(
    json.dumps(
        {
            "parent": parent.info.run_id,
            "children": children,
            "table": table["answer"].tolist(),
            "bytes": (Path(back) / "deep" / "data.bin").read_bytes() == bytes(range(256)) * 1000,
            "odd": (Path(back) / "sp ace ü.txt").read_text(),
            "text": mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/kept/note.txt"),
            "dict": mlflow.artifacts.load_dict(f"runs:/{parent.info.run_id}/answers.json")["columns"],
            "found": found["params.rate"].tolist(),
        }
    )
)
