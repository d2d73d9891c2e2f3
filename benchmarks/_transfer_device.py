"""Devices that fetch one patch with the agent's own code: _transfer_device.py ORDER (JSON).

Prints "connected" when all are, then a line of JSON for each device when it is done: seconds from
the assignment's arrival, bytes of the patch, bytes that its line carried down, and the sources that
they came from.
"""

import json
import ssl
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from link_proxy import Line, Proxy  # type: ignore[import-not-found]

from edgec_agent.config import Link as LinkConfig
from edgec_agent.config import Transfer
from edgec_agent.download import Downloader
from edgec_agent.errors import FetchError
from edgec_agent.http_source import HttpSource
from edgec_agent.interrupt import Interrupt
from edgec_agent.link import Link
from edgec_agent.mqtt_source import MqttSource
from edgec_bundle.messages import Desired, PatchSource, State, Topics, rfc3339
from edgec_bundle.store import FolderBlobStore

TRIES = 200


def main(order: dict[str, Any]) -> None:
    """Run all devices of this process at once."""
    names = [f"d{number}" for number in order["devices"]]
    said, connected = threading.Lock(), threading.Semaphore(0)

    def work(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = run(name, order, Path(folder), connected)
        with said:
            print(json.dumps({"device": name, **found}), flush=True)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for _ in names:
        connected.acquire()
    print("connected", flush=True)
    for thread in threads:
        thread.join()


def run(
    name: str, order: dict[str, Any], folder: Path, connected: threading.Semaphore
) -> dict[str, Any]:
    """Be one device: connect, wait for the assignment, fetch its patch."""
    mqtt_port, http = order["mqtt"], order["http"]
    line = None
    if "line" in order:
        line = Line(order["line"], delay_s=order.get("delay_s", 0.0))
        mqtt = Proxy(("127.0.0.1", mqtt_port), line)
        https = Proxy(("127.0.0.1", int(http.rpartition(":")[2])), line)
        mqtt_port, http = mqtt.port, f"https://127.0.0.1:{https.port}"
        _cut_often((mqtt, https), order.get("cut_every_s"), order.get("cut_s", 0.0))
    context = ssl.create_default_context(cafile=order["ca"])
    context.load_cert_chain(Path(order["folder"]) / f"{name}.pem")
    arrived: SimpleQueue[bytes] = SimpleQueue()
    link = Link(
        ("127.0.0.1", mqtt_port),
        Topics("default", name),
        LinkConfig(),
        tls=lambda: context,
        will=lambda: State(at=_now(), boot_id="b", online=False).to_bytes(),
        on_desired=arrived.put,
        on_connected=connected.release,
        now=_now,
    )
    config = Transfer()
    sources = {
        "mqtt": MqttSource(lambda: link.is_connected, link.feed, config),
        "http": HttpSource(http, lambda: context, config),
    }
    link.start()
    try:
        patch, block_bytes = _patch(arrived, order["model"])
        before, started = line.moved[1] if line else 0, time.monotonic()
        downloader = Downloader(FolderBlobStore(folder), config, Interrupt())
        ways = [sources[way] for way in order.get("ways", ["mqtt", "http"])]
        fetched = _fetch(downloader, patch, ways, block_bytes)
        return {
            "seconds": time.monotonic() - started,
            "bytes": patch.bytes,
            "carried": (line.moved[1] if line else 0) - before,
            "sources": "+".join(fetched.sources),
        }
    finally:
        link.close()


def _patch(arrived: "SimpleQueue[bytes]", model: str) -> tuple[PatchSource, int]:
    while True:
        desired = Desired.from_bytes(arrived.get(timeout=300))
        for source in desired.sources:
            if source.model == model and source.role == "model":
                return source.patches[0], desired.block_bytes


def _fetch(downloader: Downloader, patch: PatchSource, ways: list[Any], block_bytes: int) -> Any:
    for _ in range(TRIES):
        try:
            return downloader.fetch(patch.sha256, patch.bytes, ways, block_bytes)
        except FetchError as error:
            failure = error
            time.sleep(1)
    raise failure


def _cut_often(proxies: tuple[Any, ...], every_s: float | None, lasts_s: float) -> None:
    """Freeze the line, half-open, for `lasts_s` every `every_s`."""

    def cut() -> None:
        while True:
            time.sleep(every_s or 0)
            for proxy in proxies:
                proxy.freeze()
            time.sleep(lasts_s)
            for proxy in proxies:
                proxy.thaw()

    if every_s is not None:
        threading.Thread(target=cut, daemon=True).start()


def _now() -> str:
    return rfc3339(datetime.now(UTC))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
