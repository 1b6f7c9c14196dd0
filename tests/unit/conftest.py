"""Hypothesis tries the same examples in every run, without a deadline, since a slow machine is not a failure.

Also the fixtures that the tests of the network share.
"""

import gc
from collections.abc import Iterator
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
    """No proxy, and the certificates of the system."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def leftover_sockets() -> Iterator[None]:
    """Collects the sockets that the portable transport left, in this module, where they are not failures."""
    yield
    gc.collect()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A private certificate authority, whose certificate is in `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


@pytest.fixture
def ca_file(tmp_path: Path, authority: trustme.CA) -> str:  # noqa: ARG001 (it writes the file)
    return str(tmp_path / "ca.pem")
