"""Layer by layer: how far a compiled model's values lie from those of its float form."""
