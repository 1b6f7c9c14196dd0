"""Triggers on the partner's tables: compares them with the database, creates them, and finds those that were created before."""

from dispatcher.database.triggers.catalog import Installed, are_visible, installed
from dispatcher.database.triggers.creation import create, script_dialect
from dispatcher.database.triggers.table import UnfitTrigger, UnusableTrigger, locate
from dispatcher.database.triggers.writers import writers_without_outbox

__all__ = [
    "Installed",
    "UnfitTrigger",
    "UnusableTrigger",
    "are_visible",
    "create",
    "installed",
    "locate",
    "script_dialect",
    "writers_without_outbox",
]
