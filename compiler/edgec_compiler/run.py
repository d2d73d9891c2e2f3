"""What the targets of one compile run share: samples, the source's answers, float forms."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgec_bundle.errors import BundleError
from edgec_compiler import judging
from edgec_compiler.cache import open_store
from edgec_compiler.cache.floats import FloatCache
from edgec_compiler.compress.running import compress_forms
from edgec_compiler.errors import CompilerError
from edgec_compiler.forms import Forms, MadeForms
from edgec_compiler.given import read_given
from edgec_compiler.interface import Interface
from edgec_compiler.locking import write_lock
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan
from edgec_compiler.records import Inputs
from edgec_compiler.samples import Samples
from edgec_compiler.search.bench import Lab
from edgec_compiler.side_by_side import Here, Piece
from edgec_compiler.source import SourceModel
from edgec_compiler.variants import prepare
from edgec_runtime.errors import RunError


@dataclass(frozen=True, slots=True)
class Run:
    """What the targets of one run share."""

    options: CompileOptions
    source: SourceModel
    interface: Interface
    labels: bytes | None
    inputs: Inputs
    tools: Mapping[str, str]
    lab: Lab
    floats: FloatCache | None

    @property
    def forms(self) -> Forms:
        """The float forms, made once."""
        return self.lab.forms

    @property
    def evaluation(self) -> Samples:
        """The data on which source and variants are judged."""
        return self.lab.evaluation

    @classmethod
    def start(
        cls, options: CompileOptions, source: SourceModel, progress: Callable[[str], None]
    ) -> "Run":
        """Read samples and labels, and let the source model answer. Raises CompilerError."""
        given = read_given(options, source)
        progress("evaluate the source model")
        pipeline = judging.source_pipeline(source, given.interface, given.names)
        expected = judging.run_over(pipeline, given.evaluation)
        pipeline.close()
        if options.lock:
            write_lock(Path(options.lock), given.inputs.to_dict(), given.tools)
        forms = given.forms(source, progress)
        if options.compress:
            compress_forms(options, forms, given.evaluation, expected, given.names)
        store = None if options.cache is None else open_store(options.cache)
        lab = Lab(forms, given.evaluation, expected, given.names, store, given.data)
        floats = given.floats(options)
        return cls(
            *(options, source, given.interface, given.labels, given.inputs, given.tools),
            *(lab, floats),
        )

    def shared_pieces(self, plans: Sequence[Plan]) -> list[Piece]:
        """Return the making of each float form that a target of `plans` will ask for.

        A form that fails is no error yet: who needs it meets the same problem.
        """
        formats = sorted({one.format for one in plans})
        cache = self.floats
        new = [fmt for fmt in formats if cache is None or not cache.recall(self.forms, fmt)]
        if self.source.module is not None and new:
            with suppress(CompilerError):
                self.forms.graph()
        return [Piece(fmt, partial(self._prepare, plans, fmt)) for fmt in formats]

    def _prepare(self, plans: Sequence[Plan], fmt: str, here: Here) -> MadeForms:
        self.forms.progress = here.step
        for one in plans:
            if one.format == fmt:
                with suppress(CompilerError, BundleError, RunError):
                    prepare(self.forms, one.profile, fmt, one.recipe)
        return self.forms.made()
