"""Commands of a person at the device to the running agent, and its answers, by way of state.db."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgec_agent.state import AgentState


@dataclass(frozen=True, slots=True)
class Command:
    """Something that a person at the device asked the running agent for."""

    id: int
    verb: str
    arguments: Mapping[str, Any]


class Mailbox:
    """The commands in `state`. Both sides may be processes of their own."""

    def __init__(self, state: AgentState) -> None:
        self._state = state

    def put(self, verb: str, arguments: Mapping[str, Any]) -> int:
        """Ask the running agent for `verb`; return the command's id."""
        ((command_id,),) = self._state.rows(
            "INSERT INTO commands (verb, arguments) VALUES (?, ?) RETURNING id",
            verb,
            json.dumps(arguments),
        )
        return int(command_id)

    def next(self) -> Command | None:
        """Return the oldest command without an answer."""
        found = self._state.rows(
            "SELECT id, verb, arguments FROM commands WHERE answer IS NULL ORDER BY id LIMIT 1"
        )
        return Command(found[0][0], found[0][1], json.loads(found[0][2])) if found else None

    def answer(self, command_id: int, answer: Mapping[str, Any]) -> None:
        """Answer a command; answers older than the last hundred are forgotten."""
        with self._state.transaction():
            self._state.rows(
                "UPDATE commands SET answer = ? WHERE id = ?", json.dumps(answer), command_id
            )
            self._state.rows("DELETE FROM commands WHERE id <= ?", command_id - 100)

    def take_answer(self, command_id: int) -> Mapping[str, Any] | None:
        """Return and forget the answer to a command; None while there is none."""
        found = self._state.rows(
            "DELETE FROM commands WHERE id = ? AND answer IS NOT NULL RETURNING answer", command_id
        )
        return json.loads(found[0][0]) if found else None

    def withdraw(self, command_id: int) -> None:
        """Forget a command, answered or not."""
        self._state.rows("DELETE FROM commands WHERE id = ?", command_id)
