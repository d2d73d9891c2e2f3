"""The fleet server's REST API, as far as the demo calls it."""

import json
import urllib.error
import urllib.request
from typing import Any

from programs import DemoError


class Api:
    """Calls `server` with an API token."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server
        self.token = token

    def get(self, path: str) -> Any:
        """Return the JSON at `path`. Raises DemoError."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer to `body`. Raises DemoError."""
        return self._call("POST", path, body)

    def rollout(self, identity: str) -> Any:
        """Return a rollout with its groups, devices and log."""
        return self.get(f"/v1/rollouts/{identity}")

    def device(self, identity: str) -> Any:
        """Return a device and its timeline."""
        return self.get(f"/v1/devices/{identity}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise DemoError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error
        except OSError as error:
            raise DemoError(f"{method} {path}: {error}") from error
