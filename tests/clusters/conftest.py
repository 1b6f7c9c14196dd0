"""Live clusters. `make clusters` runs these tests; each adds a row to the table that is printed at the end."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clusters.black_box import BlackBox
from tests.clusters.figures import HEADER, Figures
from tests.clusters.galera import Galera, own_galera
from tests.clusters.patroni import Patroni, own_patroni
from tests.clusters.postgresql import Pair, own_pair

ROWS = pytest.StashKey[list[Figures]]()
Judge = Callable[..., Figures]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.nightly)
            item.add_marker(pytest.mark.timeout(400))
            # PyMySQL leaves its socket to the garbage collector when a server dies while it connects.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(ROWS, None):
        terminalreporter.section("clusters")
        terminalreporter.write_line("\n".join([HEADER, *(one.row for one in rows)]))


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Namespaces and other users' processes need it."""
    assert os.geteuid() == 0, (
        "the tests of clusters start servers as other users, in network namespaces: run them as root"
    )


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Ends a run, notes its figures, and asserts the law. `may_repeat` is the share of requests that may be repeated without a cause
    that can be seen from outside.
    """

    def judge(box: BlackBox, *, may_lose: bool = False, may_repeat: float = 0.0, min_commits: int = 100) -> Figures:
        figures = box.finish()
        request.config.stash.setdefault(ROWS, []).append(figures)
        assert figures.acknowledged > min_commits, figures
        assert figures.lost == figures.stranded == box.waiting() == box.dead_letters() == 0, figures
        assert box.watch.looks > 10, "the tables were not looked at"
        assert not box.watch.stranded, figures
        assert may_lose or figures.lost_by_database == 0, figures
        assert figures.unexplained <= may_repeat * figures.accepted, figures
        assert not box.fleet.exit_codes, "a dispatcher has ended by itself"
        return figures

    return judge


@pytest.fixture(scope="module")
def running_galera() -> Iterator[Galera]:
    with own_galera() as cluster:
        yield cluster


@pytest.fixture
def galera(running_galera: Galera) -> Galera:
    """Three nodes, all well, and an empty database."""
    running_galera.recover()
    running_galera.clear()
    return running_galera


@pytest.fixture
def synchronous_pair() -> Iterator[Pair]:
    with own_pair(is_synchronous=True) as pair:
        yield pair


@pytest.fixture
def asynchronous_pair() -> Iterator[Pair]:
    with own_pair(is_synchronous=False) as pair:
        yield pair


@pytest.fixture
def patroni() -> Iterator[Patroni]:
    with own_patroni() as cluster:
        yield cluster
