"""Releases, model lines, acceptance sets and the signed documents behind them."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, request

from edgec_bundle.digest import is_digest
from edgec_fleet import audit, blobs
from edgec_fleet.api import schemas
from edgec_fleet.api.blob_response import blob_response
from edgec_fleet.api.guard import current_caller, requires, server
from edgec_fleet.api.requests import (
    MAXIMUM_DOCUMENT_BYTES,
    named_as_sent,
    upload_bytes,
    upload_path,
)
from edgec_fleet.db.columns import attributes
from edgec_fleet.errors import RefusedError, UnknownError
from edgec_fleet.registry import acceptance, publish, releases, trust_state

blueprint = APIBlueprint("releases", __name__, tag="Releases")


@blueprint.post("/v1/releases")
@requires("releaser", takes_upload=True)
@blueprint.input(schemas.ReleaseUpload, location="files")
@blueprint.output(schemas.Published, status_code=201)
def publish_release(files_data: dict[str, Any]) -> Any:
    """Publish one release: a .edgeb file per profile, and a targets.json signed elsewhere."""
    caller, here = current_caller(), server()
    targets = files_data.get("targets")
    document = upload_bytes(targets, MAXIMUM_DOCUMENT_BYTES) if targets else None
    with named_as_sent(files_data["bundle"]):
        bundles = publish.take(here, [upload_path(bundle) for bundle in files_data["bundle"]])
    with here.db.write() as session:
        publication = publish.publish(
            here,
            session,
            caller.tenant,
            bundles,
            document,
            caller.actor,
            caller.actor_id,
            request.host_url.rstrip("/"),
        )
        release = releases.get_release(
            session, caller.tenant, publication.release.model, publication.release.version
        )
        return {**attributes(release, "variants"), "sign_with": publication.sign_with}


@blueprint.get("/v1/releases")
@requires("viewer")
@blueprint.output(schemas.Releases)
def list_releases() -> Any:
    """List releases, the newest first; `?model=` and `?state=` choose."""
    with server().db.read() as session:
        found = releases.list_releases(
            session,
            current_caller().tenant,
            model=request.args.get("model"),
            state=request.args.get("state"),
            limit=500,
        )
        return {"releases": found}


@blueprint.get("/v1/releases/<model>/<version>")
@requires("viewer")
@blueprint.output(schemas.Release)
def read_release(model: str, version: str) -> Any:
    """Return one release with its variants and their files."""
    with server().db.read() as session:
        found = releases.get_release(session, current_caller().tenant, model, version)
        return found


@blueprint.post("/v1/releases/<model>/<version>/sign")
@requires("releaser")
@blueprint.output(schemas.Release)
def sign_release(model: str, version: str) -> Any:
    """Sign an unsigned release with the release key that this server holds, if it does."""
    caller, here = current_caller(), server()
    with here.db.write() as session:
        release = releases.get_release(session, caller.tenant, model, version)
        releases.sign(here, session, release, caller.actor)
        return release


@blueprint.post("/v1/releases/<model>/<version>/withdraw")
@requires("releaser")
@blueprint.input(schemas.WithdrawIn)
@blueprint.output(schemas.Release)
def withdraw_release(model: str, version: str, json_data: dict[str, Any]) -> Any:
    """Re-sign without this release, by the key held here: no device installs it any more."""
    caller, here = current_caller(), server()
    with here.db.write() as session:
        release = releases.get_release(session, caller.tenant, model, version)
        releases.withdraw(here, session, release, json_data["reason"], caller.actor)
        return release


@blueprint.get("/v1/models")
@requires("viewer")
@blueprint.output(schemas.Models)
def list_models() -> Any:
    """List model lines and their acceptance sets."""
    with server().db.read() as session:
        found = releases.list_models(session, current_caller().tenant)
        return {"models": found}


@blueprint.put("/v1/acceptance/<model>")
@requires("releaser", takes_upload=True)
@blueprint.input(schemas.AcceptanceUpload, location="form_and_files")
@blueprint.output(schemas.Model)
def set_acceptance(model: str, form_and_files_data: dict[str, Any]) -> Any:
    """Set a model line's acceptance set: data and minimum, or a finished acceptance.json."""
    caller, here, sent = current_caller(), server(), form_and_files_data
    data = upload_bytes(sent["data"], acceptance.MAXIMUM_BYTES) if sent.get("data") else None
    with here.db.write() as session:
        if sent.get("acceptance"):
            document = upload_bytes(sent["acceptance"], MAXIMUM_DOCUMENT_BYTES)
            row = acceptance.publish_acceptance(
                here, session, caller.tenant, model, data, document, caller.actor
            )
        elif data is not None and sent.get("minimum") is not None:
            row = acceptance.set_acceptance(
                here,
                session,
                caller.tenant,
                model,
                data,
                sent["minimum"],
                caller.actor,
                sent["metric"],
            )
        else:
            raise RefusedError("expected the files data and minimum, or acceptance")
        return row


@blueprint.delete("/v1/acceptance/<model>")
@requires("releaser")
@blueprint.output(schemas.Model)
def remove_acceptance(model: str) -> Any:
    """Take a model line's acceptance set away, signed by the key held here."""
    caller, here = current_caller(), server()
    with here.db.write() as session:
        row = acceptance.remove_acceptance(here, session, caller.tenant, model, caller.actor)
        return row


@blueprint.get("/v1/trust/<role>.json")
@requires("viewer")
def read_trust(role: str) -> Response:
    """Return the newest signed document of `role`, byte for byte as it was signed."""
    with server().db.read() as session:
        repository = trust_state.repository_of(session, current_caller().tenant)
    newest = {
        "root": repository.roots[-1],
        "targets": repository.targets_bytes,
        "acceptance": repository.acceptance_bytes,
        "timestamp": repository.files.get("timestamp.json"),
    }.get(role)
    if newest is None:
        raise UnknownError(f"there is no {role}.json yet")
    return Response(newest, mimetype="application/json")


@blueprint.put("/v1/trust/targets.json")
@requires("releaser", takes_upload=True)
@blueprint.input(schemas.TargetsUpload, location="form_and_files")
@blueprint.output({}, status_code=204)
def put_targets(form_and_files_data: dict[str, Any]) -> Any:
    """Publish a targets.json that was signed elsewhere."""
    caller, here = current_caller(), server()
    document = upload_bytes(form_and_files_data["targets"], MAXIMUM_DOCUMENT_BYTES)
    withdrawn = form_and_files_data["withdraw"]
    with here.db.write() as session:
        trust_state.accept_targets(here, session, caller.tenant, document, withdrawn)
        audit.record(
            session,
            caller.tenant,
            caller.actor,
            "trust.targets",
            "trust",
            "targets.json",
            withdrawn=withdrawn,
        )
    return "", 204


@blueprint.get("/v1/blobs/<sha256>")
@requires("viewer")
def read_blob(sha256: str) -> Response:
    """Return a blob of the tenant: a manifest, a bundle's file, a report, an acceptance set."""
    here = server()
    if not is_digest(sha256):
        raise UnknownError("a blob is named by its sha256, 64 hexadecimal characters")
    with here.db.read() as session:
        blobs.get(session, current_caller().tenant, sha256)
    return blob_response(here.store, sha256)
