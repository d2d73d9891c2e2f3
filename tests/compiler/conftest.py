"""Makes the shared fixtures of `compiler_kit` known to every test here; torch has one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from compiler_kit import compiled  # noqa: F401

torch.set_num_threads(1)  # as in the compiler's own process
