"""A download to be killed: python kill_download.py DIR MQTT_PORT HTTP_PORT DIGEST SIZE BLOCK WAY

DIR holds the device's identity and its blobs. Says "ready" before it begins, "done" at its end.
"""

import sys
from pathlib import Path

from downloading import linked

from edgec_agent.config import Transfer
from edgec_agent.download import Downloader
from edgec_agent.http_source import HttpSource
from edgec_agent.identity import IdentityFolder
from edgec_agent.interrupt import Interrupt
from edgec_agent.mqtt_source import MqttSource
from edgec_bundle.store import FolderBlobStore


def main(folder, mqtt_port, http_port, digest, size, block_bytes, way):
    identity, config = IdentityFolder(folder), Transfer(window_blocks=4)
    downloader = Downloader(FolderBlobStore(folder / "blobs"), config, Interrupt())
    http = HttpSource(f"https://127.0.0.1:{http_port}", identity.tls, config)
    with linked(mqtt_port, identity) as link:
        mqtt = MqttSource(lambda: link.is_connected, link.feed, config)
        print("ready", flush=True)
        sources = (mqtt, http) if way == "mqtt" else (http, mqtt)
        downloader.fetch(digest, size, sources, block_bytes)
    print("done", flush=True)


if __name__ == "__main__":
    where, mqtt, http, digest, size, block, way = sys.argv[1:]
    main(Path(where), int(mqtt), int(http), digest, int(size), int(block), way)
