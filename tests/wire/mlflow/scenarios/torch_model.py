"""A network in plain PyTorch: its loss through the summary writer that ``autolog`` listens to, and the model there and back."""

import json
import tempfile

import mlflow
import numpy as np
import torch

mlflow.set_experiment("networks")
mlflow.pytorch.autolog()
torch.manual_seed(0)
x = torch.rand(64, 3)
y = x.sum(1, keepdim=True)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), 0.05)
with mlflow.start_run(run_name="plain torch") as run:
    mlflow.log_params({"lr": 0.05, "hidden": 8})
    try:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(tempfile.mkdtemp())
    except ImportError:
        writer = None
    for step in range(20):
        loss = torch.nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=step)
        if writer is not None:
            writer.add_scalar("watched", loss.item(), step)
    if writer is not None:
        writer.close()
    info = mlflow.pytorch.log_model(net, name="net", input_example=x[:2].numpy(), pip_requirements=["torch"])
loaded = mlflow.pytorch.load_model(info.model_uri)
answers = mlflow.pyfunc.load_model(info.model_uri).predict(x.numpy())
same = bool(torch.equal(loaded(x), net(x))) and np.allclose(answers, net(x).detach().numpy())
print(json.dumps({"run": run.info.run_id, "model": info.model_id, "same": same}))
