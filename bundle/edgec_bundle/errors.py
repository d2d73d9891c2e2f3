"""Everything that can be wrong with a bundle, its proofs, its deltas and its storage.

BundleError
├── ManifestError              not a well-formed manifest
├── ArchiveError               a folder or .edgeb file that is not a readable bundle
├── ArrayError                 .npz bytes that are malformed or larger than allowed
├── HistogramError             not a histogram, or one over other edges
├── MessageError               not a well-formed message of the wire
├── TrustError                 authentic proof is missing
│   ├── MetadataError          signed metadata that is malformed, or whose parts don't fit
│   ├── SignatureError         no trusted key signed it
│   ├── RollbackError          older than what is already known
│   ├── ExpiredError           signed, but no longer valid
│   ├── NotForThisDeviceError  signed for another device, tenant or profile
│   └── WithdrawnError         the release keys no longer list it
├── DeltaError                 a patch that cannot be made or applied
│   ├── PatchFormatError       not a well-formed patch, or of an unknown format
│   ├── PatchPathError         a file of a diff can't be read or written
│   ├── BaseMismatchError      the patch was made from another file
│   └── PatchLimitError        the patch wants more than the signed sizes allow
└── StoreError                 blobs cannot be kept or read
    ├── DigestMismatchError    the bytes are not the ones that were asked for
    ├── BlobMissingError       no blob has this digest
    ├── BlobBusyError          another process is writing this blob
    └── NoSpaceError           the device has no room for it
"""


class BundleError(Exception):
    """A bundle cannot be trusted, read, stored or applied."""


class ManifestError(BundleError):
    """The bytes are not a well-formed manifest."""


class ArchiveError(BundleError):
    """The folder or .edgeb file is not a readable bundle."""


class ArrayError(BundleError):
    """The .npz bytes are malformed or larger than allowed."""


class HistogramError(BundleError):
    """It is not a histogram, or one over other edges than expected."""


class MessageError(BundleError):
    """The bytes are not a well-formed message."""


class TrustError(BundleError):
    """The proof that something may be installed is missing or wrong."""


class MetadataError(TrustError):
    """Signed metadata is malformed, too large, incomplete, or its parts don't fit together."""


class SignatureError(TrustError):
    """No trusted key signed it, or too few did."""


class RollbackError(TrustError):
    """What is offered is older than what is already known.

    Attributes:
        offered: the number that came.
        installed: the lowest number that would have been accepted.
    """

    def __init__(self, *, offered: int, installed: int, what: str = "release") -> None:
        super().__init__(f"expected {what} {installed} or newer, got {offered}")
        self.offered = offered
        self.installed = installed
        self.what = what


class ExpiredError(TrustError):
    """It was signed by the right keys, but is no longer valid."""


class NotForThisDeviceError(TrustError):
    """It was signed for another device, tenant or hardware profile."""


class WithdrawnError(TrustError):
    """The release keys no longer (or never did) list this target."""


class DeltaError(BundleError):
    """A patch cannot be made or applied."""


class PatchFormatError(DeltaError):
    """The bytes are not a well-formed patch, or its format is unknown."""


class PatchPathError(DeltaError):
    """A file can't be read or written, or a bundle is to be compared with a plain file."""


class BaseMismatchError(DeltaError):
    """The patch was made from another file than the one at hand.

    Attributes:
        expected: sha256 of the file that the patch was made from.
        found: sha256 of the file at hand.
    """

    def __init__(self, *, expected: str, found: str) -> None:
        super().__init__(f"expected a base file with sha256 {expected}, got {found}")
        self.expected = expected
        self.found = found


class PatchLimitError(DeltaError):
    """The patch wants more bytes or memory than the caller allows."""


class StoreError(BundleError):
    """Blobs cannot be stored or read."""


class DigestMismatchError(StoreError):
    """The bytes are not the ones that were asked for.

    Attributes:
        expected: the sha256 that was asked for.
        found: the sha256 of the bytes that came.
    """

    def __init__(self, *, expected: str, found: str, what: str = "bytes") -> None:
        super().__init__(f"expected {what} with sha256 {expected}, got {found}")
        self.expected = expected
        self.found = found


class BlobMissingError(StoreError):
    """No blob with this digest is in the store.

    Attributes:
        digest: the sha256 that was asked for.
    """

    def __init__(self, digest: str) -> None:
        super().__init__(f"no blob with sha256 {digest} in the store")
        self.digest = digest


class BlobBusyError(StoreError):
    """Another process, or another store object over the same folder, is writing this blob."""


class NoSpaceError(StoreError):
    """The file system has no room for the blob.

    Attributes:
        wanted_bytes: what the blob needs.
        free_bytes: what there is.
    """

    def __init__(self, *, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(f"expected {wanted_bytes} free bytes, got {free_bytes}")
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes
