"""What the agent says of itself: to the server (`hello`, `state`), to people (`status`)."""

import platform
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edgec_agent.eligibility import Facts
from edgec_agent.identity import Identity
from edgec_agent.machine import IN_PROGRESS, Phase
from edgec_agent.metrics import agent_version
from edgec_agent.offer import Offer
from edgec_agent.state import AgentState, Update
from edgec_bundle.delta import device_formats
from edgec_bundle.messages import AgentInfo, Deployed, Hello, ModelState, State, rfc3339
from edgec_runtime.pipeline import FEATURES


def hello(
    state: AgentState,
    identity: Identity,
    facts: Facts,
    delta_formats: tuple[str, ...],
    now: datetime,
) -> Hello:
    """Return what this device is and can do.

    Args:
        state: of this agent.
        identity: who this device is.
        facts: what its hardware and software can do.
        delta_formats: that were configured; none: those that are quick to apply here.
        now: in UTC.
    """
    return Hello(
        at=rfc3339(now),
        boot_id=_boot_id(state),
        agent=AgentInfo(
            version=agent_version(),
            python=platform.python_version(),
            arch=facts.arch,
            os=f"{platform.system()} {platform.release()}",
        ),
        profiles=facts.profiles,
        runtimes=facts.runtimes,
        features=tuple(sorted(FEATURES)),
        delta_formats=delta_formats or device_formats(),
        memory_bytes=facts.memory_bytes,
        tags=identity.tags,
    )


def state_message(state: AgentState, now: datetime, *, online: bool) -> State:
    """Return which version of each model this device has, and how far updates have come."""
    with state.transaction():  # one consistent look
        models = {model: _model(state, model) for model in state.models()}
        boot_id = _boot_id(state)
    return State(at=rfc3339(now), boot_id=boot_id, online=online, models=models)


def _model(state: AgentState, model: str) -> ModelState:
    slots, update = state.slots(model), state.update(model)
    return ModelState(
        active=slots.active,
        previous=slots.previous,
        phase=(update.phase if update else Phase.IDLE).value,
        candidate=_candidate(update),
        reason=update.reason if update else None,
    )


def _candidate(update: Update | None) -> str | None:
    under_way = update is not None and update.phase in IN_PROGRESS | {Phase.FAILED}
    return update.manifest if update is not None and under_way else None


def status(
    state: AgentState, identity: Identity | None, link: Callable[[], str | None] | None = None
) -> dict[str, Any]:
    """Return what a person at the device wants to know; the form of `status --json`.

    Args:
        state: of this device.
        identity: None if it is not enrolled.
        link: returns the problem with the connection, or None; left out when nothing runs.
    """
    offer = state.cell("offer")
    return {
        "device": identity.device if identity else None,
        "tenant": identity.tenant if identity else None,
        "assignment": None if offer is None else Offer.from_bytes(offer).counter,
        "server": None if link is None else (link() or "connected"),
        "outbox": int(state.rows("SELECT count(*) FROM outbox")[0][0]),
        "models": {model: _status(state, model) for model in state.models()},
    }


def _status(state: AgentState, model: str) -> Mapping[str, Any]:
    slots, update = state.slots(model), state.update(model)
    return {
        "active": _slot(slots.active),
        "previous": _slot(slots.previous),
        "floor_release": state.floor_release(model),
        "phase": (update.phase if update else Phase.IDLE).value,
        "candidate": update.version if update and _candidate(update) else None,
        "reason": update.reason if update else None,
        "failures": update.failures if update else 0,
    }


def _slot(kept: Deployed | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    return {"version": kept.version, "release": kept.release, "manifest": kept.manifest}


def _boot_id(state: AgentState) -> str:
    return (state.cell("boot_id") or b"none").decode()
