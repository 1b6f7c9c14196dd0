"""Hypothesis tries the same examples in every run, and takes no time for a fault: what a slow machine needs is no finding.

And what the tests of the network share.
"""

from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and the system's own certificates."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A private one, whose certificate is in `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


@pytest.fixture
def ca_file(tmp_path: Path, authority: trustme.CA) -> str:  # noqa: ARG001 (it writes the file)
    return str(tmp_path / "ca.pem")
