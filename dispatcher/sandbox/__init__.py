"""A stand-in for Vercel, and the demo that runs against it.

The stand-in is a real HTTP server for Vercel's endpoints "Create Event" and "Get Account Information", faithful to the reference, with
scripted faults.
"""

from dispatcher.sandbox.faults import Fault
from dispatcher.sandbox.received import ReceivedRequest
from dispatcher.sandbox.server import Sandbox, serve

__all__ = ["Fault", "ReceivedRequest", "Sandbox", "serve"]
