"""Rate limits that hold across processes, counted in the database."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from edgec_bundle.digest import sha256_hex
from edgec_fleet.db.schema import RateWindow, utcnow
from edgec_fleet.errors import TooManyError


def hit(session: Session, bucket: str, *, limit: int, window_s: int) -> None:
    """Count one attempt in `bucket`, within a writing transaction of its own.

    The caller must commit even when the attempt fails afterwards, else it is not counted.

    Raises TooManyError: there were `limit` attempts in this window already.
    """
    now = utcnow()
    start = datetime.fromtimestamp(now.timestamp() // window_s * window_s, UTC)
    key = bucket if len(bucket) <= 128 else sha256_hex(bucket.encode())
    row = session.get(RateWindow, (key, start), with_for_update=True)
    if row is None:
        session.execute(delete(RateWindow).where(RateWindow.window_start < now - timedelta(days=1)))
        row = RateWindow(bucket=key, window_start=start, count=0)
        session.add(row)
    if row.count >= limit:
        wait_s = int((start + timedelta(seconds=window_s) - now).total_seconds()) + 1
        raise TooManyError(f"too many attempts; try again in {wait_s} s", retry_after_s=wait_s)
    row.count += 1
    session.flush()
