"""What holds for every test.

What tests compile stays out of the user's own cache; all workers of a session share one. No
property test is timed: on a busy machine the slowest example says nothing.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Above the settings in force, so that those of CI (the same examples each time) stay.
settings.register_profile(
    "untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    folder = tmp_path_factory.getbasetemp()
    session = folder if worker_id == "master" else folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(session / "cache"))
        yield
