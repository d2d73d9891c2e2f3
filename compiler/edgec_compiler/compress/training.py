"""One phase of training: by the user's function, or by the built-in distillation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from edgec_compiler.compress.lessons import TrainingData
from edgec_compiler.compress.recovery import Course, distil, epochs_for
from edgec_compiler.compress.trainable import Trainable
from edgec_compiler.compress.user_code import train_by
from edgec_compiler.compress.wanted import Wanted

Say = Callable[[str], None]
OBSERVED = 256  # rows from which ranges of activations are learned


@dataclass(frozen=True, slots=True)
class Phase:
    """What is learned, for how many steps at least, and how fast."""

    name: str
    steps: int
    rate: float


RECOVER = Phase("recovery", 1000, 2e-3)
CENTROIDS = Phase("centroids", 300, 5e-4)
QAT = Phase("quantisation", 500, 5e-4)
DISTIL = Phase("distillation", 3000, 3e-3)


@dataclass(slots=True)
class Trainer:
    """Trains students of one teacher, and remembers what came of each phase."""

    wanted: Wanted
    teacher: nn.Module
    data: TrainingData | None
    kinds: tuple[str, ...]
    macs: int
    seed: int
    say: Say
    phases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def able(self) -> bool:
        """Whether there is any training at all."""
        return self.wanted.fine_tune is not None or self.wanted.trains

    def train(self, student: nn.Module, phase: Phase, *, note: bool = True) -> None:
        """Train `student` in place. Raises TrainingError, NotAchievedError."""
        if self.wanted.fine_tune is not None:
            self.say(f"{phase.name}: {self.wanted.fine_tune}")
            self._observe(student)
            train_by(
                self.wanted.fine_tune,
                student,
                self.teacher,
                self.seed,
                lambda line: self.say(f"{phase.name}: {line}"),
            )
            done: dict[str, Any] = {"by": "function"}
        elif self.wanted.trains and self.data is not None:
            asked = self.wanted.recover_epochs
            epochs = epochs_for(len(self.data), phase.steps, self.macs, asked)

            def each_epoch(epoch: int) -> None:
                self._observe(student)
                if epoch % max(1, epochs // 10) == 0:
                    self.say(f"{phase.name}: epoch {epoch + 1} of at most {epochs}")

            course = Course(epochs, phase.rate, self.seed)
            learned = distil(student, self.teacher, self.data, self.kinds, course, each_epoch)
            done = {"by": "distillation", **learned.to_dict()}
        else:
            return
        if note:
            self.phases.append({"phase": phase.name, **done})

    def _observe(self, student: nn.Module) -> None:
        """Let a student that rounds its activations learn their ranges anew."""
        if isinstance(student, Trainable) and student.rounds and self.data is not None:
            student.observe(self.data.singly(OBSERVED))
