"""A network trained by Lightning, logged by itself."""

import json
import logging
import tempfile

import lightning
import mlflow
import torch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Sum(lightning.LightningModule):
    """Learns to add."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, number):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layer(x), y)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


mlflow.set_experiment("networks")
mlflow.pytorch.autolog()
lightning.seed_everything(0, verbose=False)
x = torch.rand(64, 3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16)
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
with mlflow.start_run(run_name="lightning") as run:
    lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tempfile.mkdtemp(), **quiet).fit(Sum(), loader)
print(json.dumps({"run": run.info.run_id}))
