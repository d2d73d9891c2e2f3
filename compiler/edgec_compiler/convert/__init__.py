"""Captured graphs into the file formats that devices run."""
