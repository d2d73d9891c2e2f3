"""Makes `tiny_bundles` importable for the tests beside it (pytest imports them by importlib)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
