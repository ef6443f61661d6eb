"""Settings and fixtures of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a slow machine is not a bug. Fixtures that only make a folder or clear the environment may be shared by
# the examples of a property.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine that runs the tests has in its environment must not change them."""
    for name in ("RANK", "WORLD_SIZE", "DATAROOM_API_URL", "DATAROOM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
