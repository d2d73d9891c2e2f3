"""All tables of the fleet server in one place: import tables from here.

The tables are described where they are defined: people and audit in `accounts`, releases and
trust metadata in `releases`, devices and what they are told in `devices`, rollouts in
`rollouts`. Every row carries its tenant (only `rate_windows` and `parts` serve all tenants),
every instant is UTC, every digest is a lowercase sha256 in hex.
"""

from edgec_fleet.db.accounts import (
    ROLES,
    Actor,
    Alert,
    ApiToken,
    AuditEntry,
    RateWindow,
    Tenant,
    WebSession,
)
from edgec_fleet.db.columns import Base, new_id, utcnow
from edgec_fleet.db.devices import (
    Assignment,
    Certificate,
    Device,
    DeviceEvent,
    EnrolmentToken,
    EnrolmentUse,
    Part,
    Telemetry,
)
from edgec_fleet.db.releases import (
    Blob,
    Model,
    Patch,
    Release,
    TrustMetadata,
    TrustSet,
    Variant,
    VariantFile,
)
from edgec_fleet.db.rollouts import (
    GROUP_STATES,
    ROLLOUT_STATES,
    UPDATE_STATES,
    DeviceUpdate,
    Rollout,
    RolloutGroup,
    RolloutLog,
)

__all__ = [
    "GROUP_STATES",
    "ROLES",
    "ROLLOUT_STATES",
    "UPDATE_STATES",
    "Actor",
    "Alert",
    "ApiToken",
    "Assignment",
    "AuditEntry",
    "Base",
    "Blob",
    "Certificate",
    "Device",
    "DeviceEvent",
    "DeviceUpdate",
    "EnrolmentToken",
    "EnrolmentUse",
    "Model",
    "Part",
    "Patch",
    "RateWindow",
    "Release",
    "Rollout",
    "RolloutGroup",
    "RolloutLog",
    "Telemetry",
    "Tenant",
    "TrustMetadata",
    "TrustSet",
    "Variant",
    "VariantFile",
    "WebSession",
    "new_id",
    "utcnow",
]
