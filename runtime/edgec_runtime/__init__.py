"""Runs a bundle."""
