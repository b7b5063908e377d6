"""MLServer with a runtime of one's own and its adaptive batching."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model import load as load_model


class Bench(MLModel):
    async def load(self) -> bool:
        self.model = load_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float64, copy=False)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", self.model(rows))])
