"""Makes the module beside the tests importable (pytest imports tests by importlib)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
