"""Runs in tritonclient's own environment: `python triton_calls.py ADDRESS MODEL OFFSET`.

Calls everything that tritonclient[http] offers and this server promises, against one model that
answers 2 * (x - OFFSET), and prints one JSON object {name of the check: null or what went wrong}.
"""

import itertools
import json
import sys
import traceback

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

ADDRESS, MODEL, OFFSET = sys.argv[1], sys.argv[2], float(sys.argv[3])
X = np.arange(8, dtype=np.float32).reshape(2, 4)
EXPECTED = 2 * (X - OFFSET)
VERSION = "1.2.3"


def tensor(binary: bool, x: np.ndarray = X, name: str = "x", datatype: str = "FP32"):
    one = http.InferInput(name, list(x.shape), datatype)
    one.set_data_from_numpy(x, binary_data=binary)
    return one


def check_infer(client, binary_in, binary_out, compression):
    outputs = None if binary_out is None else [http.InferRequestedOutput("y", binary_out)]
    result = client.infer(
        MODEL,
        [tensor(binary_in)],
        outputs=outputs,
        request_id="r1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), EXPECTED)
    response = result.get_response()
    assert response["model_name"] == MODEL
    assert response["model_version"] == VERSION
    assert response["id"] == "r1"


def check_async(client):
    pending = [client.async_infer(MODEL, [tensor(True)]) for _ in range(16)]
    for one in pending:
        np.testing.assert_array_equal(one.get_result().as_numpy("y"), EXPECTED)


def check_version(client):
    result = client.infer(MODEL, [tensor(True)], model_version=VERSION)
    np.testing.assert_array_equal(result.as_numpy("y"), EXPECTED)


def check_classification(client):
    asked = [http.InferRequestedOutput("y", binary_data=True, class_count=1)]
    found = client.infer(MODEL, [tensor(True)], outputs=asked).as_numpy("y")
    assert found.shape == (2, 1)
    assert all(value.split(b":")[1:] == [b"3", b"dog"] for value in found.ravel())


def check_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, VERSION)
    assert not client.is_model_ready(MODEL, "9.9.9")
    assert not client.is_model_ready("zz")
    assert not client.is_model_ready(MODEL + "z")
    assert not client.is_model_ready(MODEL[:-1])


def check_metadata(client):
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["versions"] == [VERSION]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_metadata(MODEL, VERSION) == metadata
    assert client.get_model_config(MODEL)["name"] == MODEL
    (entry,) = (e for e in client.get_model_repository_index() if e["name"] == MODEL)
    assert (entry["name"], entry["version"], entry["state"]) == (MODEL, VERSION, "READY")


def check_statistics(client):
    def counts():
        (stats,) = client.get_inference_statistics(MODEL)["model_stats"]
        inference = stats["inference_stats"]
        return (
            stats["inference_count"],
            inference["success"]["count"],
            inference["fail"]["count"],
        )

    before = counts()
    client.infer(MODEL, [tensor(True)])
    refused(lambda: client.infer(MODEL, [tensor(True, X.astype(np.int32), datatype="INT32")]))
    rows, answered, failed = (after - b for after, b in zip(counts(), before, strict=True))
    assert (rows, answered, failed) == (2, 1, 1)
    assert client.get_inference_statistics()["model_stats"]


def refused(call, *words, status="400"):
    error = None
    try:
        call()
    except InferenceServerException as refusal:
        error = refusal
    assert error is not None, "expected a refusal"
    assert error.status() == status, error
    for word in words:
        assert word in error.message(), error


def check_half_precision(client):
    for binary in (True, False):
        half = tensor(True, X.astype(np.float16), datatype="FP16")
        asked = [http.InferRequestedOutput("y", binary)]
        found = client.infer("half", [half], outputs=asked).as_numpy("y")
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, 2 * X)


def check_errors(client):
    wrong_type = tensor(True, X.astype(np.int32), datatype="INT32")
    refused(lambda: client.infer(MODEL, [wrong_type]), "'x'", "FP32", "INT32")
    refused(lambda: client.infer(MODEL, [tensor(True, X[:, :3])]), "'x'", "[2, 3]")
    refused(lambda: client.infer(MODEL, [tensor(False, X[:, :3])]), "'x'", "[2, 3]")
    refused(lambda: client.infer(MODEL, [tensor(True, name="z")]), "'x'", "missing")
    refused(lambda: client.infer(MODEL, [tensor(True), tensor(True, name="z")]), "'z'")
    refused(
        lambda: client.infer(MODEL, [tensor(True)], outputs=[http.InferRequestedOutput("q")]), "'q'"
    )
    refused(lambda: client.infer("zz", [tensor(True)]), "'zz'", status="404")
    refused(lambda: client.infer(MODEL, [tensor(True)], model_version="7"), "1.2.3", status="404")
    refused(lambda: client.get_model_metadata("zz"), "'zz'", status="404")
    refused(lambda: client.load_model(MODEL), "signed assignment")
    refused(lambda: client.unload_model(MODEL), "signed assignment")
    shared = http.InferInput("x", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)
    refused(lambda: client.infer(MODEL, [shared]), "'x'", "shared memory")
    refused(lambda: client.get_system_shared_memory_status(), status="404")
    check_infer(client, True, None, None)  # and none of this ended the service


def main() -> None:
    checks = {
        f"infer binary_in={i} binary_out={o} compression={c}": (check_infer, (i, o, c))
        for i, o, c in itertools.product(
            (True, False), (True, False, None), (None, "gzip", "deflate")
        )
    }
    for one in (
        check_async, check_version, check_classification, check_health, check_metadata,
        check_statistics, check_half_precision, check_errors,
    ):  # fmt: skip
        checks[one.__name__] = (one, ())
    results = {}
    with http.InferenceServerClient(ADDRESS, concurrency=4) as client:
        for name, (check, arguments) in checks.items():
            try:
                check(client, *arguments)
                results[name] = None
            except Exception:
                results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
