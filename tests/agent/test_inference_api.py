import gzip
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles import FAILING, INFER, RUNTIMES, X, Y, bundle, load, rows
from PIL import Image
from wire import Wire, answers_as_ever, binary_body, infer_body

from edgec_agent import oip
from edgec_agent.client import AgentClient
from edgec_agent.server import serve


def test_the_server_describes_itself_and_its_models(wire):
    about = wire.request("GET", "/v2").json
    assert about["name"] == "edgec-agent"
    assert "binary_tensor_data" in about["extensions"]

    model = wire.request("GET", "/v2/models/double").json
    assert model["versions"] == ["1.0.0"]
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert wire.request("GET", "/v2/models/double/versions/1.0.0").json == model
    config = wire.request("GET", "/v2/models/double/config").json
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
    assert wire.request("POST", "/v2/repository/index").json == [
        {"name": "double", "version": "1.0.0", "state": "READY", "reason": ""}
    ]


def test_health_is_told_apart_from_readiness(host):
    server = serve(host, "127.0.0.1:0")
    with Wire(server.address) as wire:
        assert wire.request("GET", "/v2/health/live").status == 200
        assert wire.request("GET", "/v2/health/ready").status == 503
        load(host)
        assert wire.request("GET", "/v2/health/ready").status == 200
    server.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/doubl",
        "/v2/models/doubles/ready",
        "/v2/models/zz/infer",
        "/v2/models/double/versions/2.0.0",
        "/v2/models/double/versions/1.0/ready",
        "/v2/models/double/versions/9/infer",
        "/v2/models/double/nothing",
        "/v2/models/double/ready/ready",
        "/v2/models//ready",
        "/v2/models/double%2Fready",
        "/v2/models",
        "/v3",
        "/",
        "/v2/../metrics",
        "/metrics/x",
    ],
)
def test_what_is_not_there_is_404(wire, path):
    answer = wire.request(
        "POST" if path.endswith("infer") else "GET", path, b"{}"[: 2 * ("infer" in path)]
    )
    assert answer.status == 404
    assert answer.error


def test_the_wrong_method_is_405_and_says_the_right_one(wire):
    assert wire.request("GET", INFER).headers["allow"] == "POST"
    answer = wire.request("DELETE", "/v2/models/double")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_models_cannot_be_loaded_by_clients(wire):
    for action in ("load", "unload"):
        answer = wire.request("POST", f"/v2/repository/models/double/{action}", b"{}")
        assert answer.status == 400
        assert "signed assignment" in answer.error
    assert wire.request("GET", "/v2/models/double/ready").status == 200


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "raw deflate"])
def test_tensors_travel_as_json_or_binary_plain_or_compressed(
    host, runtime, binary_in, binary_out, coding
):
    load(host, "1.2.3", runtime=runtime, offset=0.5)
    x = rows(2)
    options = {"parameters": {"binary_data_output": binary_out}, "id": "seven"}
    body, headers = binary_body(x, **options) if binary_in else (infer_body(x, **options), {})
    raw = zlib.compressobj(wbits=-15)
    body = {
        "identity": body,
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
    }[coding]
    server = serve(host, "127.0.0.1:0")

    with Wire(server.address) as wire:
        headers["Content-Encoding"] = coding.split()[-1]
        answer = wire.request("POST", INFER, body, headers)
    server.close()

    assert answer.status == 200
    assert answer.headers["edgec-model-version"] == "1.2.3"
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    message = json.loads(answer.body[:length])
    assert (message["model_name"], message["model_version"]) == ("double", "1.2.3")
    assert message["id"] == "seven"
    (output,) = message["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [2, 4])
    if binary_out:
        assert output["parameters"] == {"binary_data_size": 32}
        found = np.frombuffer(answer.body[length:], "<f4")
    else:
        found = np.array(output["data"], np.float32)
    np.testing.assert_array_equal(found, 2 * (x.ravel() - 0.5))


DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16")
NAMES = {dtype: dtype.upper().replace("FLOAT", "FP") for dtype in (*DTYPES, "float32")}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_numeric_type_goes_in_and_out(host, dtype):
    cast_in, cast_out = {"op": "cast", "dtype": "float32"}, {"op": "cast", "dtype": dtype}
    spec_in, spec_out = X.__class__("x", dtype, (-1, 4)), Y.__class__("y", dtype, (-1, 4))
    load(host, x=spec_in, y=spec_out, preprocessing=[cast_in], postprocessing=[cast_out])
    x = np.array([[0, 1, 2, 60]], dtype)
    server = serve(host, "127.0.0.1:0")

    with Wire(server.address) as wire:
        options = {"parameters": {"binary_data_output": True}}
        body, headers = binary_body(x, NAMES[dtype], **options)
        binary = wire.request("POST", INFER, body, headers)
        plain = wire.request("POST", INFER, infer_body(x, NAMES[dtype]))
    server.close()

    assert np.frombuffer(binary.body[-x.nbytes :], dtype).tolist() == [0, 2, 4, 120]
    (output,) = plain.json["outputs"]
    assert output["datatype"] == NAMES[dtype]
    assert output["data"] == [0, 2, 4, 120]


def test_booleans_go_in_and_out(host):
    cast = {"op": "cast", "dtype": "float32"}
    spec_in, spec_out = X.__class__("x", "bool", (-1, 4)), Y.__class__("y", "bool", (-1, 4))
    threshold = {"op": "threshold", "value": 1.5}
    load(host, x=spec_in, y=spec_out, preprocessing=[cast], postprocessing=[threshold])
    x = np.array([[True, False, False, True]])
    server = serve(host, "127.0.0.1:0")

    with Wire(server.address) as wire:
        body, headers = binary_body(x, "BOOL")
        assert (
            wire.request("POST", INFER, body, headers).json["outputs"][0]["data"] == x[0].tolist()
        )
        plain = wire.request("POST", INFER, infer_body(x, "BOOL"))
        assert plain.json["outputs"][0]["data"] == x[0].tolist()
        bad = wire.request("POST", INFER, body[:-1] + b"\x02", headers)
        assert (bad.status, "'x'" in bad.error) == (400, True)
    server.close()


DIGITS = Path(__file__).parents[2] / "models" / "digits"


def test_an_encoded_image_is_bytes_and_answers_like_its_pixels(host):
    steps = [
        {"op": "decode_image", "mode": "L"},
        {"op": "scale", "std": 255.0},
        {"op": "layout", "from": "NHWC", "to": "NCHW"},
    ]
    blobs = {"model": (DIGITS / "1.0.0.onnx").read_bytes()}
    manifest = replace(
        bundle().manifest,
        inputs=(X.__class__("image", "uint8", (-1, 32, 32, 1), "image"),),
        outputs=(Y.__class__("probabilities", "float32", (-1, 10), "probabilities"),),
        preprocessing=tuple(steps),
        postprocessing=({"op": "softmax"},),
        files=bundle().manifest.files[:1],
    )
    host.activate("double", host.load(manifest, blobs.__getitem__))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 1)).astype(np.uint8)
    files = []
    for image in pixels:
        sink = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(sink, "PNG")
        files.append(sink.getvalue())
    server = serve(host, "127.0.0.1:0")

    with AgentClient(server.address) as client, Wire(server.address) as wire:
        by_pixels = client.infer("double", {"image": pixels}).outputs["probabilities"]
        by_files = client.infer("double", {"image": files}).outputs["probabilities"]
        posted = wire.request("POST", INFER, files[0], {"Inference-Header-Content-Length": "0"})
        broken = wire.request(
            "POST", INFER, files[0][:99], {"Inference-Header-Content-Length": "0"}
        )
    server.close()

    np.testing.assert_array_equal(by_pixels, by_files)
    np.testing.assert_allclose(posted.json["outputs"][0]["data"], by_pixels[0], rtol=1e-6)
    assert (broken.status, "'image', row 0" in broken.error) == (400, True)


def test_classification_names_the_best_classes(wire):
    x = np.array([[1, 4, 2, 3]], np.float32)
    asked = [{"name": "y", "parameters": {"classification": 2}}]

    answer = wire.request("POST", INFER, infer_body(x, outputs=asked))

    (output,) = answer.json["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["8.000000:1:bee", "6.000000:3:dog"]


def test_a_body_without_json_is_the_only_input(wire):
    headers = {"Inference-Header-Content-Length": "0"}

    answer = wire.request("POST", INFER, rows(3).tobytes(), headers)
    ragged = wire.request("POST", INFER, rows(3).tobytes()[:-1], headers)

    assert answer.json["outputs"][0]["shape"] == [3, 4]
    assert answer.json["outputs"][0]["data"] == (2 * rows(3)).ravel().tolist()
    assert (ragged.status, "'x'" in ragged.error) == (400, True)


GOOD = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


def changed(**changes):
    kept = {**GOOD, **changes}
    return {"inputs": [{key: value for key, value in kept.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("request_", "names_input"),
    [
        pytest.param([], False, id="not an object"),
        pytest.param({}, False, id="no inputs"),
        pytest.param({"inputs": {}}, False, id="inputs no list"),
        pytest.param({"inputs": []}, True, id="inputs empty"),
        pytest.param({"inputs": [1]}, False, id="input no object"),
        pytest.param({"inputs": [GOOD, GOOD]}, False, id="input twice"),
        pytest.param({"inputs": [GOOD, {**GOOD, "name": "z"}]}, False, id="unknown input"),
        pytest.param({"inputs": [{**GOOD, "name": str(n)} for n in range(99)]}, False, id="99"),
        pytest.param(changed(name=...), False, id="no name"),
        pytest.param(changed(name=5), False, id="name no text"),
        pytest.param(changed(shape=...), True, id="no shape"),
        pytest.param(changed(shape=[4]), True, id="rank too low"),
        pytest.param(changed(shape=[1, 1, 4]), True, id="rank too high"),
        pytest.param(changed(shape=[1, 5]), True, id="wrong size"),
        pytest.param(changed(shape=[0, 4], data=[]), True, id="no rows"),
        pytest.param(changed(shape=[-1, 4]), True, id="negative size"),
        pytest.param(changed(shape=[1.0, 4]), True, id="fractional size"),
        pytest.param(changed(shape=[True, 4]), True, id="boolean size"),
        pytest.param(changed(shape=[2**40, 4]), True, id="huge size"),
        pytest.param(changed(shape=[2**30, 4]), True, id="huge product"),
        pytest.param(changed(shape=[10**6, 4]), True, id="more rows than data"),
        pytest.param(changed(datatype=...), True, id="no datatype"),
        pytest.param(changed(datatype="FP64"), True, id="other datatype"),
        pytest.param(changed(datatype="fp32"), True, id="unknown datatype"),
        pytest.param(changed(datatype="BF16"), True, id="unsupported datatype"),
        pytest.param(changed(datatype=["FP32"]), True, id="datatype no text"),
        pytest.param(changed(datatype="BYTES", shape=[1], data=["a"]), True, id="text for numbers"),
        pytest.param(changed(data=...), True, id="no data"),
        pytest.param(changed(data=7), True, id="data no list"),
        pytest.param(changed(data=[1, 2, 3]), True, id="too few"),
        pytest.param(changed(data=[1, 2, 3, 4, 5]), True, id="too many"),
        pytest.param(changed(data=["1", "2", "3", "4"]), True, id="numbers as text"),
        pytest.param(changed(data=[1, 2, 3, "4"]), True, id="one as text"),
        pytest.param(changed(data=[1, 2, 3, None]), True, id="a null"),
        pytest.param(changed(data=[1, 2, 3, {}]), True, id="an object"),
        pytest.param(changed(data=[True, False, True, True]), True, id="booleans"),
        pytest.param(changed(data=[[1, 2], [3, 4]]), True, id="other nesting"),
        pytest.param(changed(data=[[1, 2], [3]]), True, id="ragged"),
        pytest.param(changed(data=[1, 2, 3, 1e300]), True, id="beyond FP32"),
        pytest.param(changed(data=[1, 2, 3, 10**400]), True, id="beyond everything"),
        pytest.param(changed(parameters=[]), True, id="parameters no object"),
        pytest.param(changed(parameters={"binary_data_size": 16}), True, id="data and binary"),
        pytest.param(
            changed(data=..., parameters={"binary_data_size": 16}), True, id="binary without bytes"
        ),
        pytest.param(
            changed(data=..., parameters={"binary_data_size": -1}), True, id="negative binary"
        ),
        pytest.param(
            changed(data=..., parameters={"shared_memory_region": "r"}), True, id="shared memory"
        ),
        pytest.param({**changed(), "outputs": [{"name": "z"}]}, False, id="unknown output"),
        pytest.param({**changed(), "outputs": "y"}, False, id="outputs no list"),
        pytest.param({**changed(), "outputs": [{"name": "y"}] * 2}, False, id="output twice"),
        pytest.param({**changed(), "parameters": 3}, False, id="request parameters"),
        pytest.param({**changed(), "id": 3}, False, id="id no text"),
        pytest.param({**changed(), "id": "x" * 5000}, False, id="id too long"),
        pytest.param(
            {**changed(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            False,
            id="binary_data no boolean",
        ),
        pytest.param(
            {**changed(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            False,
            id="negative classification",
        ),
    ],
)
def test_a_wrong_request_is_400_and_the_next_one_is_served(wire, request_, names_input):
    answer = wire.request("POST", INFER, json.dumps(request_).encode())

    assert answer.status == 400
    assert "Traceback" not in answer.error
    if names_input:
        assert "'x'" in answer.error
    assert wire.request("POST", INFER, infer_body(rows())).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"nul",
        b'{"inputs": [{"name": "x", "shape": [1,4], "datatype": "FP32", "data": [NaN,1,1,1]}]}',
        b'{"inputs": [{"name": "x", "shape": [1,4], "datatype": "FP32", "data": [1e999,1,1,1]}]}',
        b'{"inputs": ' + b"[" * 90_000,
        b'{"inputs": ' + b"9" * 90_000 + b"}",
        b'{"inputs": [{"name": "x", "shape": [1,4], "datatype": "FP32", "data": '
        + b"[" * 200
        + b"1"
        + b"]" * 200
        + b"}]}",
    ],
    ids=["empty", "cut", "no utf-8", "no json", "nan", "inf", "deep", "long number", "deep data"],
)
def test_what_is_no_json_is_400(server, wire, body):
    answer = wire.request("POST", INFER, body)

    assert answer.status == 400
    assert answers_as_ever(server)


@pytest.mark.parametrize("length", ["1", "-1", "99999", "x", "1e3", "9" * 30])
def test_a_wrong_length_of_the_json_is_400(server, wire, length):
    body, _ = binary_body(rows())

    answer = wire.request("POST", INFER, body, {"Inference-Header-Content-Length": length})

    assert answer.status == 400
    assert answers_as_ever(server)


@pytest.mark.parametrize("surplus", [-4, -1, 1, 64])
def test_a_byte_too_few_or_too_many_is_400(server, wire, surplus):
    body, headers = binary_body(rows(2))
    body = body[:surplus] if surplus < 0 else body + bytes(surplus)

    assert wire.request("POST", INFER, body, headers).status == 400
    assert answers_as_ever(server)


def test_json_too_large_is_400_and_says_what_to_do(host):
    load(host)
    server = serve(host, "127.0.0.1:0")
    with Wire(server.address) as wire:
        large = wire.request("POST", INFER, infer_body(rows(120_000)))  # above 1 MiB
        body = infer_body(rows()) + b" " * oip.MAX_JSON_BYTES
        refused = wire.request("POST", INFER, body)
        assert wire.request("POST", INFER, infer_body(rows())).status == 200
    server.close()

    assert large.json["outputs"][0]["shape"] == [120_000, 4]
    assert refused.status == 400
    assert "binary data" in refused.error


def test_a_model_that_fails_is_500_without_a_traceback(host):
    load(host, postprocessing=[{"op": "softmax"}])
    server = serve(host, "127.0.0.1:0")
    with Wire(server.address) as wire:
        answer = wire.request("POST", INFER, infer_body(np.full((1, 4), FAILING)))
        assert answer.status == 500
        assert "model 'double' failed" in answer.error
        assert "Traceback" not in answer.error
        assert wire.request("POST", INFER, infer_body(rows())).status == 200
    server.close()


def test_status_joins_what_the_host_knows_with_what_the_updater_says(host):
    load(host)
    phases = {
        "device": "press-7",
        "models": {"double": {"phase": "idle"}, "new": {"phase": "fetching"}},
    }
    server = serve(host, "127.0.0.1:0", status=lambda: phases)

    with Wire(server.address) as wire:
        wire.request("POST", INFER, infer_body(rows()))
        status = wire.request("GET", "/v1/status").json
    server.close()

    assert status["device"] == "press-7"
    assert status["ready"] is True
    assert status["models"]["new"] == {"phase": "fetching"}
    double = status["models"]["double"]
    assert (double["phase"], double["version"], double["window"]["requests"]) == (
        "idle",
        "1.0.0",
        1,
    )


def test_a_status_that_cannot_be_told_is_an_error_and_not_the_end(host):
    def broken():
        raise KeyError("secret")

    server = serve(host, "127.0.0.1:0", status=broken)
    with Wire(server.address) as wire:
        answer = wire.request("GET", "/v1/status")
        assert answer.status == 500
        assert "secret" not in answer.error
        assert wire.request("GET", "/v2").status == 200
    server.close()
