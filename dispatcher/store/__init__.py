"""The only place where the dispatcher changes rows. Each function is one short transaction and uses the database's clock.

Every function locks in the same order: the collector's row, then installations, then deliveries, each in key order.
"""

from dispatcher.store.collection import LOWEST_ID, collect, collect_installation
from dispatcher.store.forgetting import forget_idle
from dispatcher.store.heartbeats import Heartbeat, beat, forget_silent, leave
from dispatcher.store.leases import LONG_AGO, claim, fair_share, pull, renew
from dispatcher.store.outbox_rows import Removal
from dispatcher.store.records import (
    READ,
    Answer,
    Claimed,
    Collected,
    Delivery,
    InstallationState,
    Leased,
    Pulled,
    Removed,
    Settled,
    Suspects,
)
from dispatcher.store.removal import remove
from dispatcher.store.settlement import settle
from dispatcher.store.suspects import pull_suspects
from dispatcher.store.sweep import check_writes, prune, repair
from dispatcher.store.work import Work, look

__all__ = [
    "LONG_AGO",
    "LOWEST_ID",
    "READ",
    "Answer",
    "Claimed",
    "Collected",
    "Delivery",
    "Heartbeat",
    "InstallationState",
    "Leased",
    "Pulled",
    "Removal",
    "Removed",
    "Settled",
    "Suspects",
    "Work",
    "beat",
    "check_writes",
    "claim",
    "collect",
    "collect_installation",
    "fair_share",
    "forget_idle",
    "forget_silent",
    "leave",
    "look",
    "prune",
    "pull",
    "pull_suspects",
    "remove",
    "renew",
    "repair",
    "settle",
]
