"""Publish Vercel Marketplace events in the transaction of the change that they announce.

with Session.begin() as session:
    database.name = "renamed"
    publish(session, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))
"""

from dispatcher.outbox.drivers import NoTransaction
from dispatcher.outbox.events import InstallationUpdated, ResourceUpdated
from dispatcher.outbox.publisher import apublish, insert_event, publish
from dispatcher.outbox.tables import attach_tables, include_object, metadata

__all__ = [
    "InstallationUpdated",
    "NoTransaction",
    "ResourceUpdated",
    "apublish",
    "attach_tables",
    "include_object",
    "insert_event",
    "metadata",
    "publish",
]
