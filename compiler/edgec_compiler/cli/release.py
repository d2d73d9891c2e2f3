"""What `edgec sign` and `edgec push` take: all variants of one release."""

from collections.abc import Sequence

from edgec_bundle.archive import Bundle
from edgec_compiler.errors import UsageError


def release_of(bundles: Sequence[Bundle], verb: str) -> str:
    """Return "model version". Raises UsageError unless the bundles are one release's variants."""
    found = {(b.manifest.model, b.manifest.version, b.manifest.release): b for b in bundles}
    if len(found) != 1:
        told = (
            f"{b.path} is {model} {version}, release {number}"
            for (model, version, number), b in found.items()
        )
        raise UsageError(f"{verb} the variants of one release at a time: {'; '.join(told)}")
    by_profile: dict[str, Bundle] = {}
    for bundle in bundles:
        first = by_profile.setdefault(bundle.manifest.profile, bundle)
        if first is not bundle:
            raise UsageError(
                f"{first.path} and {bundle.path} are for the same target, "
                f"{bundle.manifest.profile}: {verb} one of them"
            )
    ((model, version, _),) = found
    return f"{model} {version}"
