"""Makes the modules beside the tests known to them, and what the quantiser's tests share."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "quantise"):
    sys.path.insert(0, str(folder))
