import socket
import threading

import numpy as np
import pytest
from doubles import FAILING, RUNTIMES, load, rows
from free_ports import free_port

from edgec_agent.client import AgentClient, LocalModel
from edgec_agent.errors import (
    AddressError,
    InferenceError,
    RequestError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.server import serve


@pytest.fixture(params=["tcp", "unix"])
def client(request, host, tmp_path):
    where = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/api.sock"
    server = serve(host, where)
    with AgentClient(server.address) as client:
        yield client
    server.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_gets_the_same_answer_in_process_and_over_a_socket(client, host, runtime):
    load(host, "1.4.0", runtime=runtime, offset=2)

    near = LocalModel(host, "double").infer({"x": rows(3)})
    far = client.infer("double", {"x": rows(3)})

    assert (near.model, near.version) == (far.model, far.version) == ("double", "1.4.0")
    np.testing.assert_array_equal(near.outputs["y"], far.outputs["y"])
    np.testing.assert_array_equal(near.outputs["y"], 2 * (rows(3) - 2))


def test_errors_are_the_same_in_process_and_over_a_socket(client, host):
    load(host, postprocessing=[{"op": "softmax"}])
    local = LocalModel(host, "double")

    for infer in (local.infer, lambda *a: client.infer("double", *a)):
        with pytest.raises(RequestError, match="'x'"):
            infer({"x": rows()[:, :2]})
        with pytest.raises(UnknownModelError, match=r"1\.0\.0, not 3"):
            infer({"x": rows()}, "3")
        with pytest.raises(InferenceError, match="failed"):
            infer({"x": np.full((1, 4), FAILING)})
    with pytest.raises(UnknownModelError, match="'zz'"):
        client.infer("zz", {"x": rows()})
    assert client.infer("double", {"x": rows()}).version == "1.0.0"


def test_the_agent_can_be_asked_what_it_does(client, host):
    assert not client.is_ready()
    load(host)

    assert client.is_ready()
    assert client.status()["models"]["double"]["version"] == "1.0.0"
    assert client.metadata("double")["inputs"][0]["name"] == "x"


def test_threads_may_share_a_client(client, host):
    load(host)
    found = {}

    def call(seed: int) -> None:
        for _ in range(20):
            x = rows(2, seed)
            found[seed] = np.array_equal(client.infer("double", {"x": x}).outputs["y"], 2 * x)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_a_client_outlives_a_restart_of_the_agent(host):
    load(host)
    first = serve(host, f"127.0.0.1:{free_port()}")
    client = AgentClient(first.address)
    client.infer("double", {"x": rows()})

    first.close()
    with pytest.raises(UnavailableError, match="no agent answers"):
        client.infer("double", {"x": rows()})
    second = serve(host, first.address)

    assert client.infer("double", {"x": rows()}).version == "1.0.0"
    client.close()
    second.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 x\r\n\r\n",
    ],
)
def test_what_is_no_agent_is_said_to_be_none(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                sock.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with (
            AgentClient(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=120) as client,
            pytest.raises((UnavailableError, InferenceError)),
        ):
            client.infer("double", {"x": rows()})
        thread.join()


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(AddressError):
        AgentClient("nowhere")


def test_encoded_rows_for_a_model_that_decodes_nothing_are_refused(client, host):
    load(host)

    with pytest.raises(RequestError, match="'x': expected datatype FP32, got BYTES"):
        client.infer("double", {"x": [b"no image", b"neither"]})
