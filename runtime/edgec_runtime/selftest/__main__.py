"""``python -m edgec_runtime.selftest``: one job on stdin, one result on stdout."""

import sys

from edgec_runtime.selftest.child import main

sys.exit(main())
