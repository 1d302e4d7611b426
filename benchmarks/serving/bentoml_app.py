"""The model in BentoML, at ``/predict`` (base64 text in JSON) and ``/raw`` (the file itself)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bentoml

from benchmarks.serving.rival_model import RivalModel


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 1024}, logging={"access": {"enabled": False}})
class Classifier:
    """One worker with BentoML's own batches."""

    def __init__(self) -> None:
        self.model = RivalModel()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, images: list[str]) -> list[dict[str, Any]]:
        """Base64 text in JSON."""
        return self.model.answers([self.model.pixels(image) for image in images])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def raw(self, images: list[Annotated[Path, bentoml.validators.ContentType("image/*")]]) -> list[dict[str, Any]]:
        """Files of a form."""
        return self.model.answers([self.model.pixels(image.read_bytes()) for image in images])
