"""Makes real, small bundles for the fleet server's tests."""

import uuid
from pathlib import Path

from edgec_bundle.archive import pack_bundle, write_bundle
from edgec_bundle.manifest import Manifest, Runtime, TensorSpec


class Bundles:
    """Makes real, small bundles as .edgeb files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(
        self,
        version: str = "1.0.0",
        release: int = 1,
        profile: str = "rpi4",
        model: str = "digits",
        content: bytes = b"weights",
    ) -> Path:
        draft = Manifest(
            model=model,
            version=version,
            release=release,
            profile=profile,
            format="tflite",
            runtime=Runtime("litert"),
            inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1)),),
            outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
        )
        contents = {
            "model": ("model.tflite", content + version.encode() + profile.encode()),
            "labels": ("labels.txt", b"zero\none\n"),
            "report": ("report.json", b'{"accuracy":0.99}'),
        }
        name = f"{model}-{version}-{profile}-{uuid.uuid4().hex[:6]}"
        neighbours = {"measurements.json": b'{"latency_ms":{"p50":1.5}}'}
        bundle = write_bundle(self.folder / name, draft, contents, neighbours)
        packed = self.folder / f"{name}.edgeb"
        pack_bundle(bundle, packed, ["measurements.json"])
        return packed
