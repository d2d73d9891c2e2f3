"""What the steps of an update work with, made once by the daemon and handed to all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec_agent.config import AgentConfig
from edgec_agent.download import BlockSource, Downloader
from edgec_agent.eligibility import Facts
from edgec_agent.host import ModelHost
from edgec_agent.interrupt import Interrupt
from edgec_agent.journal import Journal
from edgec_agent.offer import Offer
from edgec_agent.state import AgentState
from edgec_bundle.manifest import Manifest
from edgec_bundle.store import FolderBlobStore


@dataclass(frozen=True, slots=True)
class Parts:
    """The agent's organs."""

    config: AgentConfig
    facts: Facts
    state: AgentState
    store: FolderBlobStore
    host: ModelHost
    journal: Journal
    downloader: Downloader
    sources: Callable[[Offer], Sequence[BlockSource]]
    interrupt: Interrupt

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest with `digest`, verified again.

        Raises:
            StoreError: it is not here, or rotten.
            ManifestError: it is none.
        """
        return Manifest.from_bytes(self.store.read(digest))
