"""What earlier runs found, kept by the content of everything that it was made from."""

from edgec_compiler.cache.store import Entry, Store, default_folder, open_store

__all__ = ["Entry", "Store", "default_folder", "open_store"]
