"""WAKEUP=notify behind pgbouncer."""

import pytest

from dispatcher.database.notifier import Notifier, NotifierUnavailable, trigger_sql
from dispatcher.database.transactions import Database


@pytest.mark.varies
@pytest.mark.parametrize("server", [pytest.param("pgbouncer", marks=pytest.mark.variant)], indirect=True)
async def test_behind_a_pooler_there_is_no_notifier(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql())
    with pytest.raises(NotifierUnavailable, match="pgbouncer"):
        await Notifier.connect(database)
