"""What a client of the broker may publish, subscribe to and receive, by the policy of the moment.

For brokers that ask us (amqtt); Mosquitto gets the same rules as a file. Topics are those of
docs/reference/wire.md. A device's own topics follow from its id, which is unique over all
tenants, so that one that has just enrolled is heard at once.
"""

from edgec_bundle.digest import is_digest
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import BlobTopic, DeviceTopic, parse_topic
from edgec_fleet.broker.policy import GATEWAY, Policy

_ROOT = "edgec/v1/"


class Rules:
    """Decides by `policy`, which may be replaced at any time."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def may_connect(self, name: str, serial: str) -> bool:
        """Return whether the owner of a valid certificate may connect.

        Args:
            name: the certificate's common name, which is also the client's id.
            serial: of the certificate, lowercase hex.
        """
        return serial not in self.policy.serials and name not in self.policy.revoked

    def may_publish(self, client: str, topic: str) -> bool:
        """Return whether `client` may publish on `topic`.

        A device's topics are few, whatever it sends: a broker keeps a retained message for each.
        """
        if client == GATEWAY:
            return topic.startswith(_ROOT)
        match _parsed(topic):
            case DeviceTopic(tenant=tenant, device=device, direction="up"):
                known = tenant in self.policy.tenants
                return known and device == client and client not in self.policy.revoked
        return False

    def may_receive(self, client: str, topic: str) -> bool:
        """Return whether a message on `topic` may reach `client`."""
        if client == GATEWAY:
            return topic.startswith(_ROOT)
        match _parsed(topic):
            case DeviceTopic(device=device, direction="down"):
                return device == client and client not in self.policy.revoked
            case BlobTopic(tenant=tenant, sha256=digest):
                return self.policy.may_read(client, tenant, digest)
        return False

    def may_subscribe(self, client: str, filter_: str) -> bool:
        """Return whether `client` may subscribe to `filter_`.

        A device names its own topics, or one blob of its tenant: no wildcard over either. Which
        blobs it is given is decided with every message, for a right may come after the wish.
        """
        if client == GATEWAY:
            return filter_.startswith(_ROOT)
        match filter_.split("/"):
            case ["edgec", "v1", _, "dev", device, "down", _]:
                return device == client and client not in self.policy.revoked
            case ["edgec", "v1", tenant, "blob", digest, _]:
                grant = self.policy.devices.get(client)
                return grant is not None and grant.tenant == tenant and is_digest(digest)
        return False


def _parsed(topic: str) -> DeviceTopic | BlobTopic | None:
    try:
        return parse_topic(topic)
    except MessageError:
        return None
