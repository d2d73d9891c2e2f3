"""Raw inputs in, final outputs out, exactly as a bundle's manifest says.

The pipeline joins preprocessing, one session and postprocessing. It loops a model whose batch is
fixed over any number of rows, and feeds one that takes any batch in bounded portions.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from edgec_bundle.manifest import Manifest
from edgec_runtime import classes
from edgec_runtime.classes import Prediction
from edgec_runtime.errors import InputError, OutputError, SpecError, UnsupportedError
from edgec_runtime.processing import Postprocessing, Preprocessing, RawInput
from edgec_runtime.session import (
    Array,
    ModelTensor,
    Session,
    check_feeds,
    load_session,
    require_runtime,
)
from edgec_runtime.steps import OPS

FEATURES: frozenset[str] = OPS  # what `requires.features` of a manifest may name
PORTION = 16  # rows given at once to a model that takes any batch


class Bundle(Protocol):
    """What `open_pipeline` needs of an `edgec_bundle` bundle."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    def read(self, role: str) -> bytes:
        """Return the verified bytes of the file with `role`."""


def features_of(manifest: Manifest) -> tuple[str, ...]:
    """Return what the manifest's steps need a device to know, sorted: for `requires.features`."""
    steps = (*manifest.preprocessing, *manifest.postprocessing)
    return tuple(sorted({str(step["op"]) for step in steps}))


def unsupported(manifest: Manifest) -> tuple[str, ...]:
    """Return those of the manifest's required features that this runtime does not know."""
    return tuple(name for name in manifest.requires.features if name not in FEATURES)


class Pipeline:
    """One loaded bundle. Every method may be called from several threads at once."""

    def __init__(self, manifest: Manifest, session: Session, labels: tuple[str, ...] = ()) -> None:
        """Join `manifest` with a loaded model. Takes over the session and closes it in `close`.

        Raises:
            UnsupportedError: the manifest asks for what this runtime does not know.
            SpecError: its steps or interface do not fit each other or the model.
        """
        unknown = unsupported(manifest)
        if unknown:
            raise UnsupportedError(unknown)
        self.manifest = manifest
        self.labels = labels
        self.session = session
        self.preprocessing = Preprocessing.parse(manifest.inputs, manifest.preprocessing)
        self.postprocessing = Postprocessing.parse(manifest.outputs, manifest.postprocessing)
        self.head = classes.head_of(manifest)
        public = tuple(spec.name for spec in manifest.inputs)
        self._feeds = _bind(public, session.inputs, "input")
        self._heads = _bind(self.postprocessing.heads, session.outputs, "output")
        self._batch = _batch(session.inputs)

    def infer(self, inputs: Mapping[str, RawInput]) -> dict[str, Array]:
        """Return the final outputs, each [N, ...], in the manifest's order.

        Args:
            inputs: for each public input an array with leading N, of the manifest's dtype and
                shape, or, where the first step is decode_image, N encoded image files.

        Raises:
            InputError: the inputs do not fit; the message names the input and the row.
            ModelError: the runtime failed, or the pipeline is closed.
            OutputError: the outputs are not what the manifest promises.
        """
        rows = self.preprocessing.count(inputs)
        portion = self._batch or PORTION
        parts = []
        for start in range(0, rows, portion):
            stop = min(start + portion, rows)
            part = {name: value[start:stop] for name, value in inputs.items()}
            try:
                parts.append(self.postprocessing.run(self._model(part, stop - start)))
            except InputError as error:
                raise error.moved(start) from error
        if len(parts) == 1:
            return parts[0]
        return {name: _join(name, [part[name] for part in parts]) for name in parts[0]}

    def classify(self, inputs: Mapping[str, RawInput]) -> tuple[Prediction, ...]:
        """Return the class of every row. Raises as `infer`, and SpecError if there are none."""
        found = self.predictions(self.infer(inputs))
        if found is None:
            raise SpecError(f"model '{self.manifest.model}' does not classify its inputs")
        return found

    def predictions(self, outputs: Mapping[str, Array]) -> tuple[Prediction, ...] | None:
        """Read the class of every row out of final outputs; None if the model names none."""
        if self.head is None or self.head.kind == "map":
            return None
        return classes.predictions(self.head, outputs, self.labels)

    def close(self) -> None:
        """Release the model. Calls under way end normally."""
        self.session.close()

    def _model(self, inputs: Mapping[str, RawInput], rows: int) -> dict[str, Array]:
        """Return the model's outputs [rows, ...] under the names of the public outputs."""
        prepared = self.preprocessing.run(inputs)
        feeds = {}
        for public, tensor in self._feeds.items():
            value = prepared[public]
            if len(value) != rows:
                raise InputError(f"preprocessing made {len(value)} rows of {rows}", tensor=public)
            if self._batch is not None and rows < self._batch:
                value = np.concatenate([value, np.repeat(value[-1:], self._batch - rows, axis=0)])
            problem = check_feeds((tensor,), {tensor.name: value})
            if problem is not None:
                raise InputError(
                    f"does not fit the model after preprocessing: {problem}", tensor=public
                )
            feeds[tensor.name] = np.ascontiguousarray(value)
        raw = self.session.run(feeds)
        results = {}
        for public, tensor in self._heads.items():
            value = raw[tensor.name]
            if value.ndim == 0 or len(value) != (self._batch or rows):
                raise OutputError(
                    f"expected {self._batch or rows} rows, got shape {list(value.shape)}",
                    tensor=public,
                )
            results[public] = value[:rows]
        return results


def load_pipeline(
    manifest: Manifest,
    read: Callable[[str], bytes],
    *,
    threads: int = 1,
    optimise: bool = True,
) -> Pipeline:
    """Load the model and labels of `manifest` through `read` (role -> verified bytes).

    Args:
        manifest: what to run.
        read: returns the bytes of a role; called for "model" and, if it is listed, "labels".
        threads: how many threads one inference may use.
        optimise: see `session.load_session`.

    Raises:
        RuntimeMissingError, UnsupportedError, SpecError, ModelError, DataError: see `errors`.
    """
    unknown = unsupported(manifest)
    if unknown:
        raise UnsupportedError(unknown)
    runtime = manifest.runtime
    require_runtime(runtime.name, runtime.min_version or "0")
    labels = classes.parse_labels(read("labels")) if manifest.has("labels") else ()
    session = load_session(
        read("model"),
        runtime.name,
        threads=threads,
        delegate=runtime.delegate or "cpu",
        optimise=optimise,
    )
    try:
        return Pipeline(manifest, session, labels)
    except BaseException:
        session.close()
        raise


def open_pipeline(bundle: Bundle, *, threads: int = 1, optimise: bool = True) -> Pipeline:
    """Load an opened bundle. Raises like `load_pipeline`, and what `bundle.read` raises."""
    return load_pipeline(bundle.manifest, bundle.read, threads=threads, optimise=optimise)


def _bind(
    public: tuple[str, ...], tensors: tuple[ModelTensor, ...], kind: str
) -> dict[str, ModelTensor]:
    """Match public names with the model's tensors: by name if all are equal, else by position."""
    if len(public) != len(tensors):
        raise SpecError(
            f"the manifest has {len(public)} {kind}s for a model with {len(tensors)}:"
            f" {', '.join(tensor.name for tensor in tensors)}"
        )
    by_name = {tensor.name: tensor for tensor in tensors}
    if by_name.keys() == set(public):
        return {name: by_name[name] for name in public}
    if shared := by_name.keys() & set(public):
        raise SpecError(f"{kind}s: '{min(shared)}' is in manifest and model, but others are not")
    return dict(zip(public, tensors, strict=True))


def _batch(tensors: tuple[ModelTensor, ...]) -> int | None:
    """Return the batch size that the model insists on, or None if it takes any."""
    if any(not tensor.shape for tensor in tensors):
        raise SpecError("the model has an input without a batch axis")
    sizes = {tensor.shape[0] for tensor in tensors} - {-1}
    if len(sizes) > 1 or 0 in sizes:
        raise SpecError(f"the model's inputs have different batch sizes: {sorted(sizes)}")
    return sizes.pop() if sizes else None


def _join(name: str, parts: list[Array]) -> Array:
    try:
        return np.concatenate(parts)
    except ValueError as error:
        shapes = sorted({part.shape[1:] for part in parts})
        raise OutputError(f"rows have different shapes: {shapes}", tensor=name) from error
