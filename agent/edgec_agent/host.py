"""Which model answers: one reference per model, taken once per call, swapped without a gap.

The host decides nothing about updates. Whoever does, loads a candidate aside (`load`), puts it
into service (`activate`, which returns what was there before), lets it be compared on live calls
(`start_tap`), and lets go of what is no longer needed (`retire`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from edgec_agent.errors import (
    InferenceError,
    ModelLoadError,
    RequestError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.serving import Serving
from edgec_agent.stats import Recorder, Totals, Window
from edgec_agent.tap import Tap
from edgec_bundle.manifest import Manifest

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.generic]
Inputs = Mapping[str, Array | Sequence[bytes]]
Outputs = Mapping[str, Array]

_REMEMBERED = 8  # manifests per model whose counts are kept


class ModelHost:
    """Every model that this device serves. All methods may be called from any thread."""

    def __init__(
        self, *, threads: int = 1, concurrency: int | None = None, wait_s: float = 30.0
    ) -> None:
        """Make an empty host.

        Args:
            threads: threads inside one run of a model.
            concurrency: runs of one model at the same time; default: the number of cores.
            wait_s: how long a call waits for its turn, or for a model that is being exchanged.
        """
        ...

    def load(self, manifest: Manifest, read: Callable[[str], bytes]) -> Serving:
        """Return `manifest`'s model, loaded and warm, not yet in service.

        Args:
            read: role -> verified bytes.

        Raises:
            ModelLoadError: it could not be loaded, or failed its first run.
        """
        raise NotImplementedError

    def activate(self, model: str, serving: Serving) -> Serving | None:
        """Answer `model`'s calls from `serving` from now on; return what answered before.

        Calls in flight end where they began. Taps on the previous serving see no more calls.
        """
        raise NotImplementedError

    def active(self, model: str) -> Serving | None:
        """Return what answers `model`'s calls now."""
        raise NotImplementedError

    def models(self) -> tuple[str, ...]:
        """Return the names of the models in service, sorted."""
        raise NotImplementedError

    def drain(self, model: str, wait_s: float = 30.0) -> bool:
        """Take `model` out of service and free it *before* its successor is loaded.

        For devices without memory for two: calls that come meanwhile wait (up to the host's
        `wait_s`) for the next `activate`. Returns whether it was closed within `wait_s`.
        """
        raise NotImplementedError

    def remove(self, model: str) -> Serving | None:
        """Stop answering for `model`: unknown from now on. Returns what answered."""
        raise NotImplementedError

    def retire(self, serving: Serving, wait_s: float = 0.0) -> bool:
        """Close `serving` when its last call has ended, and give its memory back.

        Returns whether that was so within `wait_s`. Raises RuntimeError if it is in service.
        """
        raise NotImplementedError

    def infer(
        self, model: str, inputs: Inputs, version: str | None = None
    ) -> tuple[Outputs, Manifest]:
        """Return the outputs for `inputs`, and the manifest that computed them.

        Raises:
            UnknownModelError: not served here, or not in `version`.
            RequestError: the inputs do not fit the model.
            UnavailableError: no turn within `wait_s`.
            InferenceError: the model failed.
        """
        raise NotImplementedError

    def start_tap(self, model: str, other: Serving, capacity: int = 64) -> Tap:
        """Compare what `model` answers with what `other` would, off the calls' path, from now on."""
        raise NotImplementedError

    def stats(self, model: str, *, reset: bool = False) -> Window:
        """Return the window of the serving that is active. Raises UnknownModelError."""
        raise NotImplementedError

    def take_windows(self) -> tuple[Window, ...]:
        """Return and reset every window: one per manifest that served, the active one always."""
        raise NotImplementedError
