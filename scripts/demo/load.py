"""Steady inference load on an agent's v2 API, with every answer counted."""

import http.client
import json
import threading
import time
from collections import Counter

import numpy as np
import numpy.typing as npt

PAUSE_S = 0.02  # one request each 20 ms and stream: steady, and far from what an agent can take


class Load:
    """Sends images to one model of one agent until stopped; counts answers by version."""

    def __init__(self, port: int, model: str, images: npt.NDArray[np.uint8]) -> None:
        self.port = port
        self.model = model
        self.served: Counter[str] = Counter()
        self.failures: list[str] = []
        self._images = images
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-{port}-{model}", daemon=True)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the request under way and return."""
        self._stop.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        index = 0
        while not self._stop.is_set():
            try:
                self.served[self._ask(connection, self._images[index % len(self._images)])] += 1
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
            index += 1
            time.sleep(PAUSE_S)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, image: npt.NDArray[np.uint8]) -> str:
        """Return the model version that answered. Raises OSError or ValueError otherwise."""
        batch = image[np.newaxis]
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": "image",
                        "shape": list(batch.shape),
                        "datatype": "UINT8",
                        "parameters": {"binary_data_size": batch.nbytes},
                    }
                ]
            }
        ).encode()
        connection.request(
            "POST",
            f"/v2/models/{self.model}/infer",
            body=header + batch.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {body[:200]!r}")
        reply = json.loads(body)
        probabilities = reply["outputs"][0]["data"]
        if len(probabilities) != 10:
            raise ValueError(f"expected 10 probabilities, got {len(probabilities)}")
        return str(reply["model_version"])
