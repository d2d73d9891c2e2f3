"""Where a target runs each operator of a model, why, and what would help."""
