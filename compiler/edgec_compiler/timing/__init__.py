"""Times bundles and models on this machine, each in a fresh process."""
