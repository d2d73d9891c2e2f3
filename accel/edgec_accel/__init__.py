"""The entropy coder of edgec's tensor deltas in C: the same bytes as edgec's own, sooner.

edgec uses it where it is installed; nothing else need call it. `VERSION` is the version of the
tensor format that it codes.
"""

from edgec_accel._lanes import decode, encode

VERSION = 1

__all__ = ["VERSION", "decode", "encode"]
