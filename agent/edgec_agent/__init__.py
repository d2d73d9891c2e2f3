"""Bundle to running model."""
