"""One module per model runtime; `session.load_session` picks."""
