"""What the agent's API costs: a call through it against the bare runtime, in the same run.

    python benchmarks/inference.py [--calls N]

Peers: onnxruntime's `session.run` alone, and a stdlib `http.server` that runs the same session.
All on one thread and one kept-alive connection; digits 1.0.0 as float ONNX, one image a call.
"""

import argparse
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import onnxruntime

from edgec_agent.host import ModelHost
from edgec_agent.server import serve
from edgec_bundle.archive import Bundle, open_bundle
from edgec_compiler.cli import main as edgec

DIGITS = Path(__file__).parents[1] / "models" / "digits"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    calls = parser.parse_args().calls
    image = np.load(DIGITS / "evaluation.npz")["inputs"][:1]
    with tempfile.TemporaryDirectory() as folder:
        bundle = compiled(Path(folder) / "bundle")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            bundle.read("model"), options, providers=["CPUExecutionProvider"]
        )
        rows = {
            "onnxruntime session.run": bare(session),
            "stdlib http.server, binary": peer(session),
            "edgec-agent, binary tensors": agent(bundle, image, binary=True),
            "edgec-agent, JSON": agent(bundle, image, binary=False),
        }
        print(f"{'':<30}{'p50 ms':>10}{'p95 ms':>10}{'x bare p50':>12}")
        first = None
        for name, call in rows.items():
            times = measured(call, calls)
            first = first or times[0]
            print(f"{name:<30}{times[0]:>10.3f}{times[1]:>10.3f}{times[0] / first:>12.1f}")


def compiled(out: Path) -> Bundle:
    """Compile digits 1.0.0 to float ONNX for this machine."""
    steps, labels = str(DIGITS / "steps.toml"), str(DIGITS / "labels.txt")
    words = ["compile", str(DIGITS / "1.0.0.onnx"), "--target", "generic-x86_64"]
    words += ["--precision", "fp32", "--preprocessing", steps, "--labels", labels]
    words += ["--evaluation", str(DIGITS / "evaluation.npz"), "--out", str(out), "--json"]
    if edgec(words) != 0:
        raise SystemExit("the benchmark's model does not compile")
    return open_bundle(out)


def measured(call: Callable[[], None], calls: int) -> tuple[float, float]:
    """Return (p50, p95) of `call` in milliseconds."""
    for _ in range(50):
        call()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    cuts = statistics.quantiles(times, n=20)
    return statistics.median(times), cuts[18]


def bare(session: onnxruntime.InferenceSession) -> Callable[[], None]:
    """Return a call of the session alone, on a tensor that is ready."""
    tensor = session.get_inputs()[0]
    feed = {tensor.name: np.zeros([1, 1, 32, 32], np.float32)}
    return lambda: session.run(None, feed)


def peer(session: onnxruntime.InferenceSession) -> Callable[[], None]:
    """Return a call through the smallest HTTP server that answers with the raw output."""
    run_bare = bare(session)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one write an answer: two would wait for the client's delayed ACK

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            run_bare()
            answer = bytes(40)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return poster(server.server_address[1], "/", bytes(1024), {})


def agent(bundle: Bundle, image: np.ndarray, *, binary: bool) -> Callable[[], None]:
    """Return a call through the agent's own server, preprocessing included."""
    host = ModelHost()
    host.activate(bundle.manifest.model, host.load(bundle.manifest, bundle.read))
    server = serve(host, "127.0.0.1:0")
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "UINT8"}
    data = image.tobytes()
    if binary:
        tensor["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        body = head + data
    else:
        headers, body = (
            {},
            json.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]}).encode(),
        )
    path = f"/v2/models/{bundle.manifest.model}/infer"
    return poster(int(server.address.rpartition(":")[2]), path, body, headers)


def poster(port: int, path: str, body: bytes, headers: dict[str, str]) -> Callable[[], None]:
    """Return a call that posts `body` over one kept-alive connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def call() -> None:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        payload = answer.read()
        if answer.status != 200:
            raise SystemExit(f"HTTP {answer.status}: {payload[:200]!r}")

    return call


if __name__ == "__main__":
    main()
