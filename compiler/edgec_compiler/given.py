"""What a run is given beside its model: samples, labels and steps, read and fitted to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgec_compiler.cache import open_store
from edgec_compiler.cache.floats import FloatCache
from edgec_compiler.cache.keys import contents
from edgec_compiler.compress.wanted import file_of
from edgec_compiler.errors import UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.importers.image_steps import image_steps
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.interface import Interface, interface_of, read_steps
from edgec_compiler.locking import check_lock
from edgec_compiler.options import CompileOptions
from edgec_compiler.records import Inputs
from edgec_compiler.samples import Samples, digest_of, load_samples, noise
from edgec_compiler.sessions import source_outputs
from edgec_compiler.source import SourceModel
from edgec_compiler.tools import tool_versions
from edgec_runtime.classes import parse_labels
from edgec_runtime.errors import RunError


@dataclass(frozen=True, slots=True)
class Given:
    """What was read, and the digests of it all."""

    interface: Interface
    labels: bytes | None
    names: tuple[str, ...]  # of the classes
    calibration: Samples | None
    evaluation: Samples
    inputs: Inputs
    tools: Mapping[str, str]
    # Digests of the calibration and evaluation data as they were before they were read; None if
    # they cannot be known, or nobody asks.
    data: Mapping[str, str | None] | None

    def forms(self, source: SourceModel, progress: Callable[[str], None]) -> Forms:
        """Return the float forms of `source`, none of them made yet."""
        return Forms(source, self.interface, self.calibration, progress)

    def floats(self, options: CompileOptions) -> FloatCache | None:
        """Return where the forms of earlier runs lie, if they can be those of this one."""
        as_it_is = kind_of(options.model)[0] != "factory" and not options.compress
        if options.cache is None or self.data is None or not as_it_is:
            return None
        return FloatCache(open_store(options.cache), self.data["calibration"])


def read_given(options: CompileOptions, source: SourceModel) -> Given:
    """Return what `options` give for `source`.

    Raises:
        CompilerError: something cannot be read, does not fit the model, or is not what the lock
            file says.
    """
    given = options.preprocessing
    steps = read_steps(Path(given)) if given else image_steps(source)
    interface = interface_of(steps, source.inputs, source_outputs(source))
    labels = _read_labels(options.labels)
    names = _label_names(labels)

    def samples(origin: str) -> Samples | None:
        path = getattr(options, origin)
        return load_samples(Path(path), origin, names, interface) if path else None

    # Before the data is read: if it changes meanwhile, what is kept is found by nobody.
    data = None
    if options.cache is not None:
        data = contents({key: getattr(options, key) for key in ("calibration", "evaluation")})
    calibration = samples("calibration")
    if calibration is None and options.noise_ranges:
        calibration = noise(interface, options.seed)
    evaluation = samples("evaluation") or calibration or noise(interface, options.seed)
    tools = tool_versions()
    inputs = Inputs(
        source.sha256,
        calibration.sha256 if calibration else None,
        evaluation.sha256 if evaluation.origin == "evaluation" else None,
        digest_of(Path(options.preprocessing)) if options.preprocessing else None,
        digest_of(Path(options.labels)) if options.labels else None,
        *(digest_of(file_of(one)) if one else None for one in options.compress.functions),
    )
    if options.locked:
        check_lock(Path(options.locked), inputs.to_dict(), tools, options.unlike)
    return Given(interface, labels, names, calibration, evaluation, inputs, tools, data)


def _read_labels(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--labels {path}: {error.strerror or error}") from error


def _label_names(labels: bytes | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    try:
        return parse_labels(labels)
    except RunError as error:
        raise UsageError(f"--labels: {error}") from error
