"""Brings a model to its target's own form first, where a command can only look at that."""

from contextlib import closing
from pathlib import Path

from edgec_bundle.archive import is_bundle
from edgec_compiler.cli.progress import progress_for
from edgec_compiler.errors import CompilerError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import plan
from edgec_hardware_profiles import Profile


class FirstCompiledError(CompilerError):
    """What `edgec compile` says of the model, with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def has_operators_of(model: str, profile: Profile) -> bool:
    """Return whether `model` is a bundle, or a file of a format whose operators `profile` judges.

    A TFLite file counts as one: it is past the stage at which it could become anything else.

    Raises:
        UsageError: there is no such file.
        ModelFileError: it is not a model.
    """
    if is_bundle(Path(model)):
        return True
    kind, _, _ = kind_of(model)
    return kind == "tflite" or kind in profile.formats


def compile_into(
    folder: Path, model: str, target: str, shapes: tuple[str, ...], *, quiet: bool
) -> tuple[Path, str]:
    """Return the bundle that `edgec compile` makes of `model` on noise, and its precision.

    Raises:
        CompilerError: it can't be compiled.
    """
    name = "model"
    options = CompileOptions(
        model, (target,), str(folder / name), name=name, shapes=shapes, noise_ranges=True
    )
    (one,) = plan(options)
    with (
        closing(compile_isolated(options)) as events,
        closing(progress_for([one.profile.name], quiet=quiet)) as progress,
    ):
        for event in events:
            if event["event"] == "step":
                progress.step(event["target"], event["step"])
            elif event["error"] is not None:
                raise FirstCompiledError(event["error"], event["exit_code"])
            else:
                return one.out, event["facts"]["precision"]
    raise FirstCompiledError(f"{model}: its compilation ended without a result", 1)
