"""The model in LitServe, at ``/predict`` (base64 text in JSON) and ``/raw`` (the file itself): ``python litserve_app.py PORT``.

Batches of up to 32 that wait 2 ms at most, one worker; its ZeroMQ queue and no waiting were tried, and are no faster. LitServe reads
annotations as they are, so that they cannot be left unevaluated here.
"""

import sys
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.serving.rival_model import RivalModel


class Classifier(litserve.LitAPI):
    """Base64 text in JSON."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.model = RivalModel()

    def decode_request(self, request: dict) -> Any:
        """Pixels of a request."""
        return self.model.pixels(request["image"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave the batch a list."""
        return inputs

    def predict(self, batch: list[Any]) -> list[dict[str, Any]]:
        """Answer for a batch."""
        return self.model.answers(batch)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave the answers a list."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer as it is."""
        return output


class RawClassifier(Classifier):
    """The file itself."""

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/*")]) -> Any:
        """Pixels of a request."""
        return self.model.pixels(request)


if __name__ == "__main__":
    apis = [
        made(max_batch_size=32, batch_timeout=0.002, api_path=path) for made, path in ((Classifier, "/predict"), (RawClassifier, "/raw"))
    ]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
