"""Delta-aware requantisation: new int8 weights as near to the deployed ones as quality allows.

`rebase` is the whole of it; docs/requantise.md explains the method and its sources.
"""
