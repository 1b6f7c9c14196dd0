"""A stand-in for Vercel's "Create Event" endpoint: a real HTTP server, faithful to the reference, with scripted faults."""

from dispatcher.sandbox.faults import Fault
from dispatcher.sandbox.received import ReceivedRequest
from dispatcher.sandbox.server import Sandbox, serve

__all__ = ["Fault", "ReceivedRequest", "Sandbox", "serve"]
