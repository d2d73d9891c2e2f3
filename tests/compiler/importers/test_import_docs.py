"""The import reference holds what the importer, ONNX and the committed lists say."""

import subprocess
import sys

from compiler_kit import ROOT


def test_the_operator_tables_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "import_tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
