"""Who gets which bundle, when."""
