"""The pytest plugin in real runs of pytest: the guide's snippets, its refusals, and what an application without the service loads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "deploy" / "testing.md"
INI = "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
# By its path: the environment's entry point could be that of another version.
PLUGIN = ("-p", "no:vercel_outbox", "-p", "dispatcher.pytest_plugin")


def snippet(heading: str) -> str:
    """Returns the guide's code block that begins with this comment."""
    (found,) = re.findall(rf"```python\n(# {re.escape(heading)}\n.*?)```", GUIDE.read_text(), re.DOTALL)
    return str(found)


def run_pytest(directory: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on these modules in a directory of its own, without this run's settings."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    (directory / "pytest.ini").write_text(INI)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCHER_", "PYTEST_"))}
    environ |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *PLUGIN, *arguments]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=110)


def test_the_guides_tests_pass(tmp_path: Path) -> None:
    modules = {name: snippet(f"{name}.py") for name in ("conftest", "test_rename", "test_delivery")}
    done = run_pytest(tmp_path, **modules)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_guides_async_tests_pass(tmp_path: Path) -> None:
    modules = {"conftest": snippet("conftest.py for async tests"), "test_rename": snippet("test_async_rename.py")}
    done = run_pytest(tmp_path, **modules)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_failure_shows_the_difference_and_no_line_of_ours(tmp_path: Path) -> None:
    wrong = snippet("test_rename.py").replace('resource_id="db_1"))', 'resource_id="db_1", product_id="pg"))')
    done = run_pytest(tmp_path, conftest=snippet("conftest.py"), test_rename=wrong)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    (shown,) = re.findall(r"```text\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert shown.strip() in re.sub(r"(?m)^E +(AssertionError: )?(?=expected|  )", "", done.stdout).replace("E   ", "")
    assert "dispatcher/testing" not in done.stdout


WITHOUT_A_DATABASE = "def test_it(vercel_outbox): pass"
ASYNC = """
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

@pytest.fixture
def vercel_outbox_database():
    return create_async_engine("sqlite+aiosqlite://")

def test_it(vercel_outbox): pass
"""


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (WITHOUT_A_DATABASE, "define a fixture `vercel_outbox_database`"),
        (ASYNC, "define an async fixture `vercel_outbox`"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, module: str, said: str) -> None:
    done = run_pytest(tmp_path, test_it=module)
    assert "1 error" in done.stdout, done.stdout + done.stderr
    assert said in done.stdout
    assert "pytest_plugin.py" not in done.stdout


SANDBOX = """
import httpx
from dispatcher.sandbox import Fault

EVENT = {"event": {"type": "resource.updated", "resourceId": "db_1"}}

def post(sandbox):
    url = f"{sandbox.url}/v1/installations/icfg_1/events"
    return httpx.post(url, json=EVENT, headers={"authorization": "Bearer t0ken"}, timeout=60, trust_env=False).status_code

def test_it_answers_and_shows_faults(vercel_sandbox):
    vercel_sandbox.script(Fault(status=503, times=1))
    assert [post(vercel_sandbox), post(vercel_sandbox)] == [503, 201]
    assert [one.event["resourceId"] for one in vercel_sandbox.requests] == ["db_1", "db_1"]

def test_each_test_has_its_own(vercel_sandbox):
    assert vercel_sandbox.requests == []
    assert post(vercel_sandbox) == 201

def test_a_failing_test_ends_it_too(vercel_sandbox):
    raise RuntimeError

async def ask(sandbox):
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(f"{sandbox.url}/requests")).status_code

def test_it_runs_beside_a_loop_of_the_tests_own(vercel_sandbox):
    import asyncio
    assert asyncio.run(ask(vercel_sandbox)) == 200
"""


def test_the_sandbox_runs_beside_the_test_and_ends_with_it(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, test_it=SANDBOX)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr


NO_PORT = """
import pytest
from dispatcher.sandbox import Sandbox

@pytest.fixture
def unavailable(monkeypatch):
    monkeypatch.setattr(Sandbox.__init__, "__defaults__", (0, "192.0.2.1", None, None))

def test_it(unavailable, vercel_sandbox): pass
"""


def test_a_sandbox_that_cannot_start_fails_the_test(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, test_it=NO_PORT)
    assert "1 error" in done.stdout, done.stdout + done.stderr
    assert "PortUnavailable" in done.stdout


LIGHT = """
import sys

SERVICE = ("alembic", "apscheduler", "httpx", "prometheus_client", "pydantic_settings", "starlette", "structlog", "tenacity")

def loaded():
    return [name for name in sys.modules if name in SERVICE or name in ("dispatcher.settings", "dispatcher.sandbox", "dispatcher.database")]

def test_the_plugin_loads_nothing_of_the_service():
    assert "dispatcher.pytest_plugin" in sys.modules
    assert loaded() == []

def test_nor_does_the_outbox(vercel_outbox):
    assert loaded() == []

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in SERVICE:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())

def test_without_the_service_the_sandbox_says_what_to_install(vercel_sandbox): pass
"""


def test_an_application_without_the_service_runs_its_tests(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, conftest=snippet("conftest.py"), test_it=LIGHT)
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "install the wheel with its extra [service]" in done.stdout


def test_our_own_runs_do_not_load_it(request: pytest.FixtureRequest) -> None:
    """Coverage would not see what it imports."""
    plugins = request.config.pluginmanager
    assert plugins.is_blocked("vercel_outbox")
    assert not plugins.has_plugin("dispatcher.pytest_plugin")
