"""Tries a bundle in a child process, so that nothing it does can hurt the one that asks.

`run_selftest` is the parent's side; ``python -m edgec_runtime.selftest`` is the child. Between
them go one job (stdin) and one result (stdout), see `protocol`.
"""

from edgec_runtime.selftest.parent import Acceptance, run_selftest
from edgec_runtime.selftest.protocol import Cause, SelfTestResult

__all__ = ["Acceptance", "Cause", "SelfTestResult", "run_selftest"]
