"""A client that knows HTTP only from the outside: raw bytes over a socket, read back strictly."""

import json
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
from doubles import INFER, rows


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]


class Wire:
    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(120)
            self.sock.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), 120)
        self.buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        return self.answer(with_body=method != "HEAD")

    def answer(self, with_body: bool = True) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(headers.get("content-length", 0)) if with_body else 0
        while len(self.buffer) < length:
            self._receive()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(int(first.split()[1]), headers, body)

    def closed(self) -> bool:
        """Return whether the server has ended the connection, with nothing more to say."""
        try:
            return self.buffer == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError(f"the server closed the connection after {self.buffer!r}")
        self.buffer += data


def infer_body(x: np.ndarray, datatype: str = "FP32", **request: Any) -> bytes:
    """Return an inference request with JSON tensors."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": datatype, "data": x.tolist()}
    return json.dumps({"inputs": [tensor], **request}).encode()


def binary_body(x: np.ndarray, datatype: str = "FP32", **request: Any) -> tuple[bytes, dict]:
    """Return an inference request with a binary tensor, and its header."""
    raw = x.tobytes()
    tensor = {
        "name": "x",
        "shape": list(x.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    header = json.dumps({"inputs": [tensor], **request}).encode()
    return header + raw, {"Inference-Header-Content-Length": str(len(header))}


def answers_as_ever(server) -> bool:
    """Return whether a new client is served."""
    with Wire(server.address) as wire:
        answer = wire.request("POST", INFER, infer_body(rows()))
        return answer.json["outputs"][0]["data"] == (2 * rows()).ravel().tolist()
