"""For a partner's own tests: the outbox's tables, and the events that a change announced.

rename(session, "db_1", "second")
assert_announced(session, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))

With pytest, the fixture `vercel_outbox` is an `Outbox`.
"""

from dispatcher.testing.announcement import aannounced, aassert_announced, announced, assert_announced
from dispatcher.testing.outbox import Outbox
from dispatcher.testing.tables import acreate_tables, create_tables

__all__ = [
    "Outbox",
    "aannounced",
    "aassert_announced",
    "acreate_tables",
    "announced",
    "assert_announced",
    "create_tables",
]
