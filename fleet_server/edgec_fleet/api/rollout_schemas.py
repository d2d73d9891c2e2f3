"""What the API takes and gives about rollouts."""

from apiflask import Schema
from apiflask.fields import Boolean, Dict, Float, Integer, List, Nested, String

from edgec_fleet.api.schemas import Instant, text


class GroupIn(Schema):
    """A group: one of percent, count, devices and filter chooses its devices."""

    name = String(required=True)
    percent = Float()
    count = Integer()
    devices = List(String())
    filter = Dict(keys=String(), values=String())
    success_threshold = Float(metadata={"description": "finished / total at least, 0..1"})
    error_threshold = Float(metadata={"description": "failed / total at most, 0..1"})
    minimum_executed = Integer(metadata={"description": "before errors are judged"})
    soak_s = Float(metadata={"description": "seconds after success before the next group"})
    device_timeout_s = Float(metadata={"description": "a silent device leaves the count"})
    retries = Integer(metadata={"description": "how often a failed device is told again"})


class RolloutIn(Schema):
    """What to bring where, how carefully. Without groups the strategy's own are used."""

    model = String(required=True)
    version = String(required=True)
    strategy = String(metadata={"description": "canary, staged or all"})
    groups = List(Nested(GroupIn))
    rate_per_minute = Float(allow_none=True)


class WhyIn(Schema):
    """Why, for the log."""

    reason = text(1024, load_default="")


class AbortIn(WhyIn):
    """Whether devices that were told already shall go back."""

    roll_back = Boolean(load_default=False)


class RolloutHead(Schema):
    """A rollout and how it stands."""

    id = String()
    model = String()
    version = String()
    strategy = String()
    state = String()
    reason = String()
    since = Instant()
    created_at = Instant()
    finished_at = Instant()
    rate_per_minute = Float(allow_none=True)


class Rollouts(Schema):
    """Rollouts, the newest first."""

    rollouts = List(Nested(RolloutHead))


class Group(Schema):
    """A group, its thresholds and how many of its devices are in which state."""

    id = String()
    position = Integer()
    name = String()
    select = Dict()
    success_threshold = Float()
    error_threshold = Float()
    minimum_executed = Integer()
    soak_s = Float()
    device_timeout_s = Float()
    retries = Integer()
    state = String()
    reason = String()
    since = Instant()
    counts = Dict(keys=String(), values=Integer())


class DeviceUpdate(Schema):
    """A device in the rollout."""

    device = String(attribute="device_id")
    group = String(attribute="group_id")
    state = String()
    phase = String(allow_none=True)
    reason = String(allow_none=True)
    evidence = Dict()
    since = Instant()
    attempts = Integer()
    counter = Integer(allow_none=True)
    transferred_bytes = Integer(allow_none=True)
    full_bytes = Integer(allow_none=True)


class LogEntry(Schema):
    """Why something changed."""

    at = Instant()
    actor = String(allow_none=True)
    subject = String()
    group = String(attribute="group_id", allow_none=True)
    device = String(attribute="device_id", allow_none=True)
    before = String(allow_none=True)
    after = String()
    why = String()
    evidence = Dict()


class Rollout(RolloutHead):
    """A rollout with its groups, devices (those that need attention first) and log."""

    counts = Dict(keys=String(), values=Integer())
    groups = List(Nested(Group))
    updates = List(Nested(DeviceUpdate))
    log = List(Nested(LogEntry))
