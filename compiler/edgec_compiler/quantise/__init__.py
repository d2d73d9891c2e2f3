"""Float models into models of lower precision, under our own activation statistics."""
