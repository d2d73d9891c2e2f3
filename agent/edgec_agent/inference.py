"""`edgec-agent infer`: the model in the active slot, tried on files, in this process."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec_agent.errors import ConfigError
from edgec_agent.state import AgentState
from edgec_bundle.manifest import Manifest
from edgec_bundle.store import FolderBlobStore
from edgec_runtime.data import MAX_IMAGE_BYTES, load_data, read_bounded
from edgec_runtime.pipeline import Pipeline, load_pipeline
from edgec_runtime.processing import RawInput


def open_active(state: AgentState, store: FolderBlobStore, model: str | None) -> Pipeline:
    """Return the active model, loaded. Without a name it must be the only one.

    Raises:
        ConfigError: no such model, or a name is needed.
        StoreError, RunError: it can't be read or loaded.
    """
    active = [name for name in state.models() if state.slots(name).active]
    if model is None:
        if len(active) != 1:
            listed = ", ".join(active) or "none"
            raise ConfigError(f"name the model with --model; on this device: {listed}")
        model = active[0]
    slot = state.slots(model).active
    if slot is None:
        raise ConfigError(f"there is no model {model} on this device")
    manifest = Manifest.from_bytes(store.read(slot.manifest))
    return load_pipeline(manifest, lambda role: store.read(slot.files[role]))


def infer_files(pipeline: Pipeline, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what the model says of each input, as `edgec run` does: one object per row.

    Raises:
        DataError, InputError: a file can't be read, or does not fit the model.
    """
    for path in paths:
        for name, inputs in _rows(pipeline, path):
            started = time.perf_counter()
            outputs = pipeline.infer(inputs)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            found = pipeline.predictions(outputs)
            yield {
                "input": name,
                "outputs": {key: value[0].tolist() for key, value in outputs.items()},
                "label": found[0].label if found else None,
                "score": found[0].score if found else None,
                "elapsed_ms": round(elapsed_ms, 3),
                "version": pipeline.manifest.version,
            }


def _rows(pipeline: Pipeline, path: Path) -> Iterator[tuple[str, Mapping[str, RawInput]]]:
    specs = pipeline.manifest.inputs
    if path.suffix != ".npz" and path.is_file():
        yield str(path), {specs[0].name: [read_bounded(path, MAX_IMAGE_BYTES)]}
        return
    data = load_data(path, pipeline.labels).bound(specs)
    for row in range(len(data)):
        one = data.rows(row, row + 1)
        yield (one.names[0] if one.names else f"{path}[{row}]"), one.inputs
