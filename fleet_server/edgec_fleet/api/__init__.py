"""The REST API: `app` assembles it, `guard` says who may call what, the rest are its parts."""
