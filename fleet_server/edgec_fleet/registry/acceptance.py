"""Acceptance sets: a small labelled data set per model line, with the least score on it."""

import math

from sqlalchemy.orm import Session
from tuf.api.metadata import Targets

from edgec_bundle.manifest import NAME
from edgec_bundle.trust.acceptance import AcceptanceSet, acceptance_sets
from edgec_bundle.trust.metadata import verify
from edgec_fleet import audit, blobs
from edgec_fleet.db.schema import Blob, Model
from edgec_fleet.errors import RefusedError
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server

MAXIMUM_BYTES = 256 << 20


def set_acceptance(
    server: Server,
    session: Session,
    tenant: str,
    model: str,
    data: bytes,
    minimum: float,
    by: audit.Actor,
    metric: str = "accuracy",
) -> Model:
    """Give the model line an acceptance set, signed with the acceptance key held here.

    Args:
        server: stores the blob and signs.
        session: a writing transaction.
        tenant: whose model line.
        model: its name; the line need not have releases yet.
        data: an .npz with `inputs` and `labels`; devices read it in bounded memory.
        minimum: the least score, 0..1.
        by: who sets it.
        metric: what the score is.

    Raises:
        RefusedError: the name, the data or the score is not acceptable.
        MissingKeyError: the acceptance key is elsewhere; send a finished acceptance.json.
    """
    _check(model, data)
    if not (math.isfinite(minimum) and 0 <= minimum <= 1):
        raise RefusedError(f"expected a minimum score from 0 to 1, got {minimum}")
    digest = blobs.put(session, server.store, tenant, data, "acceptance")
    entry = AcceptanceSet(sha256=digest, bytes=len(data), minimum=minimum, metric=metric)
    trust_state.sign_acceptance(server, session, tenant, {model: entry})
    return _recorded(session, tenant, model, by)


def publish_acceptance(
    server: Server,
    session: Session,
    tenant: str,
    model: str,
    data: bytes | None,
    document: bytes,
    by: audit.Actor,
) -> Model:
    """Publish an acceptance.json signed elsewhere, with the data it names for `model`.

    Raises:
        TrustError: the document is not acceptable.
        RefusedError: it names data that neither came along nor is here already.
    """
    if data is not None:
        _check(model, data)
        blobs.put(session, server.store, tenant, data, "acceptance")
    root = trust_state.repository_of(session, tenant).root
    for name, entry in acceptance_sets(verify(root, "acceptance", document, Targets)).items():
        row = session.get(Blob, (tenant, entry.sha256))
        if row is None or row.bytes != entry.bytes:
            raise RefusedError(
                f"the acceptance set of {name} ({entry.sha256}) is not here: send it"
            )
    trust_state.accept_acceptance(server, session, tenant, document)
    return _recorded(session, tenant, model, by)


def remove_acceptance(
    server: Server, session: Session, tenant: str, model: str, by: audit.Actor
) -> Model:
    """Take the model line's acceptance set away. Raises MissingKeyError."""
    trust_state.sign_acceptance(server, session, tenant, {model: None})
    return _recorded(session, tenant, model, by)


def _check(model: str, data: bytes) -> None:
    if not NAME.fullmatch(model):
        raise RefusedError(f"expected a model name of a-z, 0-9, - and _, got {model!r}")
    if not data.startswith(b"PK\x03\x04") or len(data) > MAXIMUM_BYTES:
        raise RefusedError(f"expected an .npz file of at most {MAXIMUM_BYTES} bytes")


def _recorded(session: Session, tenant: str, model: str, by: audit.Actor) -> Model:
    row = session.get(Model, (tenant, model))
    if row is None:
        row = Model(tenant=tenant, name=model)
        session.add(row)
        session.flush()
    audit.record(
        session,
        tenant,
        by,
        "acceptance.set" if row.acceptance_sha256 else "acceptance.remove",
        "model",
        model,
        sha256=row.acceptance_sha256,
        minimum=row.acceptance_minimum,
    )
    return row
