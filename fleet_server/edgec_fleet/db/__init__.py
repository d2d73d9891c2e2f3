"""The fleet server's database: `schema` holds the tables, `session` opens it."""

from edgec_fleet.db.session import Database

__all__ = ["Database"]
