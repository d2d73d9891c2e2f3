"""The registry: models, releases and their variants, acceptance sets, and their signatures."""
