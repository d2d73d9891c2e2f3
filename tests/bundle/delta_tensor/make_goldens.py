"""Write the golden files anew: `python tests/bundle/delta_tensor/make_goldens.py`.

Only for a new version of the format: devices in the field must go on reading what these hold.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from delta_lots import LANE_GOLDENS, lane_digest
from delta_models import GOLDENS, body_of
from golden_pairs import pairs


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    lots = {name: lane_digest(name) for name in LANE_GOLDENS}
    (GOLDENS / "lanes.json").write_text(json.dumps({"lots": lots}, indent=1) + "\n")
    for name, (old, new) in pairs().items():
        (GOLDENS / f"{name}.old").write_bytes(old)
        (GOLDENS / f"{name}.new").write_bytes(new)
        for form in ("tensor", "tensor-planes"):
            (GOLDENS / f"{name}.{form}").write_bytes(body_of(form, old, new))


if __name__ == "__main__":
    main()
