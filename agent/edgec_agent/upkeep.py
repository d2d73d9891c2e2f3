"""Which blobs are kept: those of every slot, of every update that is not over, acceptance sets."""

from edgec_agent.machine import IN_PROGRESS, Phase, Retry
from edgec_agent.offer import Offer
from edgec_agent.parts import Parts
from edgec_agent.state import Update
from edgec_agent.steps import choose_patch, wants
from edgec_bundle.errors import BundleError


def may_retry(update: Update, offer: Offer, policy: Retry) -> bool:
    """Return whether a failed update is still wanted and not given up."""
    return (
        update.phase is Phase.FAILED
        and update.failures < policy.attempts
        and offer.find(update.model, update.manifest) is not None
    )


def collect(parts: Parts, offer: Offer) -> None:
    """Delete every blob, whole or begun, that no slot and no update needs."""
    kept = needed(parts, offer)
    for digest in parts.store.digests():
        if digest not in kept:
            parts.store.delete(digest)
    for digest in parts.store.partials():
        if digest not in kept:
            parts.store.discard_partial(digest)


def needed(parts: Parts, offer: Offer) -> set[str]:
    """Return the digests of all blobs that must stay."""
    # An acceptance set outlives the release it was fetched for: the next one is judged by it too.
    found = {one.acceptance.sha256 for one in offer.assigned if one.acceptance is not None}
    for model in parts.state.models():
        slots = parts.state.slots(model)
        for slot in (slots.active, slots.previous):
            if slot is not None:
                found |= {slot.manifest, *slot.files.values()}
        update = parts.state.update(model)
        if update is not None and (
            update.phase in IN_PROGRESS or may_retry(update, offer, parts.config.retry)
        ):
            found |= _needed_by(update, parts, offer)
    return found


def _needed_by(update: Update, parts: Parts, offer: Offer) -> set[str]:
    found = {update.manifest}
    assigned = offer.find(update.model, update.manifest)
    if assigned is None or not parts.store.has(update.manifest):
        return found
    try:
        files = wants(parts.manifest(update.manifest), assigned)
    except BundleError:
        return found
    for want in files:
        found.add(want.sha256)
        patches = offer.patches.get(want.sha256, ())
        patch = choose_patch(want, patches, update.moved.refused, parts.store.has)
        if patch is not None:
            found.add(patch.sha256)
    return found
