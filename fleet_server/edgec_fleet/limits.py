"""Limits on failed attempts (login, enrolment) that hold across processes: counted in the database.

Only failures count, so that a thousand devices behind one address can enrol at once.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgec_fleet.db.schema import RateWindow, utcnow
from edgec_fleet.db.session import insert_or
from edgec_fleet.errors import TooManyError


def check(session: Session, *buckets: str, limit: int, window_s: int) -> None:
    """Raise TooManyError if any of `buckets` has `limit` failures in the current window."""
    start = _window(window_s)
    worst = session.scalar(
        select(RateWindow.count)
        .where(RateWindow.bucket.in_(buckets), RateWindow.window_start == start)
        .order_by(RateWindow.count.desc())
        .limit(1)
    )
    if worst is not None and worst >= limit:
        wait_s = int((start + timedelta(seconds=window_s) - utcnow()).total_seconds()) + 1
        raise TooManyError(f"too many attempts; try again in {wait_s} s", retry_after_s=wait_s)


def count(session: Session, *buckets: str, window_s: int) -> None:
    """Count one failure in each of `buckets`; windows of the day before are forgotten."""
    start = _window(window_s)
    session.execute(delete(RateWindow).where(RateWindow.window_start < start - timedelta(days=1)))
    for bucket in sorted(buckets):
        values = {"bucket": bucket, "window_start": start, "count": 1}
        insert_or(session, RateWindow, values, {"count": RateWindow.count + 1})


def _window(window_s: int) -> datetime:
    """Return when the current window of `window_s` seconds began."""
    return datetime.fromtimestamp(utcnow().timestamp() // window_s * window_s, UTC)
