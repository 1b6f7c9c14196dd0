"""How long the worker waits, and for how much, so that one statement serves many events."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The defaults are those of the service."""

    answer_wait_seconds: float = 0.25
    """While the sender is saturated, an answer waits this long for others to be settled with …"""
    max_waiting_answers: int = 1_000
    """… unless there are this many."""
    max_batch_characters: int = 500_000
    """Characters in the answers of one settlement: MySQL refuses a statement longer than `max_allowed_packet`, often 4 MiB."""
    burst_sample_events: int = 10_000
    """The first events of a burst, which decide about the rest of it."""
    max_holding_pause_seconds: float = 0.2
    """The longest pause while leases are held, even if the polling interval is longer."""
    sweep_seconds: float = 5.0
    """Time between two scans that begin at the bottom of a queue."""


STANDARD = Pace()
