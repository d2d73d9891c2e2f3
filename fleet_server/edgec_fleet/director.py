"""The director: signs what each device was assigned, and signs it again before it expires."""

from datetime import datetime, timedelta

from securesystemslib.signer import Signer

from edgec_bundle.trust.director import AssignedTarget, sign_assignment
from edgec_bundle.trust.director import Assignment as Document
from edgec_fleet.db.schema import Assignment

LIFE = timedelta(days=30)  # a device that was off for a month still takes what it is told
RENEW_BEFORE = timedelta(days=15)  # of its end, a document is replaced by one with a new counter


def sign(assignment: Assignment, signer: Signer, now: datetime) -> None:
    """Fill in the assignment's signed document, once: a counter stands for one document.

    Raises:
        BundleError: the targets are not what a device could take, or the signer failed.
    """
    if assignment.document is not None:
        return
    issued = now.replace(microsecond=0)
    expires = issued + LIFE
    assignment.document = sign_assignment(
        Document(
            tenant=assignment.tenant,
            device=assignment.device_id,
            counter=assignment.counter,
            issued=issued,
            expires=expires,
            targets=tuple(
                AssignedTarget(target["path"], target["sha256"], target["bytes"])
                for target in assignment.targets
            ),
        ),
        signer,
    )
    assignment.issued_at, assignment.expires_at = issued, expires


def is_due(assignment: Assignment, now: datetime) -> bool:
    """Return whether the document should be replaced by a fresh one."""
    return assignment.expires_at is not None and assignment.expires_at - now < RENEW_BEFORE
