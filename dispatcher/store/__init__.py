"""The only place where the dispatcher changes rows: each function one short transaction, by the database's clock.

One lock order everywhere: the collector's row, installations, deliveries; each in key order.
"""

from dispatcher.store.collection import LOWEST_ID, collect, collect_installation
from dispatcher.store.leases import LONG_AGO, claim, fair_share, pull, renew
from dispatcher.store.records import (
    READ,
    Answer,
    Claimed,
    Collected,
    Delivery,
    InstallationState,
    Leased,
    Pulled,
    Settled,
    Suspects,
)
from dispatcher.store.settlement import settle
from dispatcher.store.suspects import pull_suspects
from dispatcher.store.sweep import check_writes, mend, prune
from dispatcher.store.work import Work, look

__all__ = [
    "LONG_AGO",
    "LOWEST_ID",
    "READ",
    "Answer",
    "Claimed",
    "Collected",
    "Delivery",
    "InstallationState",
    "Leased",
    "Pulled",
    "Settled",
    "Suspects",
    "Work",
    "check_writes",
    "claim",
    "collect",
    "collect_installation",
    "fair_share",
    "look",
    "mend",
    "prune",
    "pull",
    "pull_suspects",
    "renew",
    "settle",
]
