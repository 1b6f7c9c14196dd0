"""Publish Vercel Marketplace events in the transaction of the change that they announce.

with Session.begin() as session:
    database.name = "renamed"
    publish(session, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))
"""

from typing import TYPE_CHECKING

from dispatcher.outbox.drivers import NoTransaction
from dispatcher.outbox.events import Event, InstallationRemoved, InstallationUpdated, ResourceUpdated
from dispatcher.outbox.publisher import apublish, insert_event, publish
from dispatcher.outbox.tables import attach_tables, include_object, metadata

__all__ = [
    "Event",
    "InstallationRemoved",
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

__version__: str
"""The installed version; `0+unknown` if the package runs without being installed."""

if not TYPE_CHECKING:  # a type checker would take every name for an attribute of this module

    def __getattr__(name: str) -> str:
        """Looks the version up when it is first used: reading the package's metadata would slow the import down."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vercel-outbox-dispatcher")
        except PackageNotFoundError:
            return "0+unknown"
