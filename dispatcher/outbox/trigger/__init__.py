"""A database trigger on the partner's own table that writes the outbox row, so that no code path can omit it."""

from dispatcher.outbox.trigger.script import script
from dispatcher.outbox.trigger.statements import Script
from dispatcher.outbox.trigger.watched import Column, Expression, Source, UnusableName, Watched

__all__ = ["Column", "Expression", "Script", "Source", "UnusableName", "Watched", "script"]
