"""Who gets which release, when.

`spec` reads the order, `decide` says what happens next (pure), `engine` does it in the database,
`control` is what people may do to a rollout.
"""
