"""Makes the shared fixtures of `compiler_kit` known to every test here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from compiler_kit import compiled  # noqa: F401
