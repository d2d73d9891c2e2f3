"""Trained model to bundle."""
