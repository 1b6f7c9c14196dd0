"""How many round trips to the server each step takes, however much it moves: counts, not times, so that they are the same everywhere."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt
from tests.contract.databases import on_servers
from tests.contract.proxy import Proxy, proxy_before
from tests.contract.steps import claim, count, settle, write

TAKEN = {
    "postgresql": {"look": 1, "collect": 4, "claim": 3, "settle": 4},
    "mysql": {"look": 2, "collect": 7, "claim": 5, "settle": 8},
}
"""BEGIN, COMMIT and, on MySQL and MariaDB, the ROLLBACK of a returned connection included."""
Result = TypeVar("Result")


def counted(proxy: Proxy, step: Callable[[], Result]) -> tuple[Result, int]:
    before = proxy.round_trips
    return step(), proxy.round_trips - before


@on_servers
@pytest.mark.parametrize("subjects", [1, 200])
def test_each_step_takes_a_few_round_trips(database: Database, partner: Engine, subjects: int) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(subjects)))
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        assert behind.is_cluster() is False  # connects
        _, looked = counted(proxy, lambda: store.look(behind, store.LOWEST_ID, store.LONG_AGO))
        _, collected = counted(proxy, lambda: store.collect(behind, subjects, store.LOWEST_ID, timedelta()))
        leased, claimed = counted(proxy, lambda: claim(behind))
        _, settled = counted(proxy, lambda: settle(behind, *leased))
        behind.close()
    assert count(database, attempt) == subjects
    taken = {"look": looked, "collect": collected, "claim": claimed, "settle": settled}
    assert taken == TAKEN[database.dialect.name]
