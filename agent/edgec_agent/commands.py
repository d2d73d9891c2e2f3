"""What a person at the device asks for: done by the running agent, or here when none runs.

Commands travel through state.db, so whoever may write there may command, and nobody else.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec_agent.errors import AgentError, ConfigError, UnavailableError
from edgec_agent.machine import IN_PROGRESS, Phase
from edgec_agent.mailbox import Command, Mailbox
from edgec_agent.pack import open_pack
from edgec_agent.state import AgentState
from edgec_agent.updater import Updater
from edgec_bundle.errors import BundleError

ROLLBACK, INSTALL, FORGET = "rollback", "install", "forget"


def answer(updater: Updater, command: Command) -> dict[str, Any]:
    """Do what `command` says; return {"ok": true, ...} or {"ok": false, "error": ...}."""
    try:
        return {"ok": True, **_do(updater, command)}
    except (AgentError, BundleError) as error:
        return {"ok": False, "error": str(error)}
    except (KeyError, TypeError) as error:
        return {"ok": False, "error": f"not a command: {error!r}"}


def _do(updater: Updater, command: Command) -> dict[str, Any]:
    arguments = command.arguments
    match command.verb:
        case "rollback":
            model = str(arguments["model"])
            return {"model": model, "version": updater.service.return_by_hand(model)}
        case "install":
            return install(updater, Path(str(arguments["pack"])))
        case "forget":
            return forget(updater, str(arguments["model"]))
    raise ConfigError(f"unknown command {command.verb!r}")


def install(updater: Updater, path: Path) -> dict[str, Any]:
    """Take an offline pack through the same checks as the server's word.

    Everything is copied out of the pack, so it may be pulled out afterwards; test, swap and
    probation follow as for any update.

    Raises:
        ConfigError: not a pack.
        BundleError: not to be trusted.
        FetchError: a part is missing.
    """
    with open_pack(path) as pack:
        offer = updater.accept(pack.desired(), sources=[pack])
        reached = updater.run_with([pack])
    return {
        "assignment": offer.counter,
        "models": {model: phase.value for model, phase in reached.items()},
    }


def forget(updater: Updater, model: str) -> dict[str, Any]:
    """Forget what was refused or has failed of `model`, and look at the assignment again."""
    state = updater.parts.state
    update = state.update(model)
    if update is None:
        raise ConfigError(f"there is no model {model} on this device")
    if update.phase in IN_PROGRESS:
        raise ConfigError(f"an update of {model} is under way: {update.phase}")
    with state.transaction():
        state.forget(model)
        if update.phase is not Phase.IDLE:
            updater.parts.journal.move(update, Phase.IDLE, "reset by a person at the device")
    updater.assignments.plan()
    return {"model": model}


def send(
    state: AgentState, verb: str, arguments: Mapping[str, Any], timeout_s: float
) -> Mapping[str, Any]:
    """Ask the running agent for `verb` and return its answer. Raises UnavailableError."""
    mailbox = Mailbox(state)
    command_id = mailbox.put(verb, arguments)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = mailbox.take_answer(command_id)
        if found is not None:
            return found
        time.sleep(0.05)
    mailbox.withdraw(command_id)
    raise UnavailableError(f"the agent did not answer within {timeout_s:g} s")
