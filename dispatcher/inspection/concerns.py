"""What is not as it should be, and the command that shows more of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from dispatcher.inspection.backlog import Backlog, OldestEvent
from dispatcher.inspection.status import Status
from dispatcher.policy.decision import DeadLetterReason, PauseReason
from dispatcher.settings.durations import age

OLD_EVENT_SECONDS = 60.0
"""An event that has waited for longer is reported."""
SILENCE_SECONDS = 30.0
"""If something is due and nothing has been sent for longer, the silence is reported."""
REFUSED_SHARE = 0.5
"""If the tokens of more installations than this share are refused or missing, their source is to blame rather than the customers."""
EXPECTED_REASONS = frozenset({DeadLetterReason.PURGED, DeadLetterReason.DISABLED})
"""Dead letters that a person or a customer caused on purpose."""


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that an operator should know."""

    urgent: bool
    """Whether an operator must act, because it does not resolve by itself."""
    what: str
    command: tuple[str, ...]
    """The words of the `dispatcher` command that shows more."""


def concerns(status: Status) -> list[Concern]:
    """Returns everything that is not as it should be, urgent concerns first."""
    return sorted(_concerns(status), key=lambda concern: not concern.urgent)


def _concerns(status: Status) -> Iterator[Concern]:
    yield from _dead_letters(status.backlog)
    yield from _waiting(status)
    yield from _paused(status)
    yield from _outages(status)
    if status.failing:
        worst = ", ".join(f"{one.installation_id} {one.failures}×" for one in status.failing)
        all_of_them = ("installations", "list", "--failing")
        command = all_of_them if len(status.failing) > 1 else ("explain", status.failing[0].installation_id)
        yield Concern(False, f"failing in a row: {worst}", command)
    if status.leases.expired:
        what = f"leases that have expired: {status.leases.expired:,}; a dispatcher died or hangs"
        yield Concern(False, what, ("check",))


def _waiting(status: Status) -> Iterator[Concern]:
    backlog, recent, last = status.backlog, status.recent, status.last_request
    if backlog.outbox + backlog.due and backlog.oldest_event_age > SILENCE_SECONDS and (why := _why_silent(status)):
        yield Concern(True, f"events are waiting, and nothing is being sent: {why}", ("check",))
    if status.logs_successes and recent.requests and not recent.delivered and last is not None:
        what = f"every recent request failed ({_by_size(recent.outcomes)})"
        yield Concern(True, what, _explain(last.installation_id, last.resource_id))
    if (oldest := backlog.oldest_event) is not None and backlog.oldest_event_age > OLD_EVENT_SECONDS:
        yield Concern(
            False,
            f"the oldest event ({oldest.id}) has waited for {age(backlog.oldest_event_age)}",
            _explain_event(oldest),
        )


def _explain_event(event: OldestEvent) -> tuple[str, ...]:
    if event.installation_id is None:
        return ("check",)
    return _explain(event.installation_id, event.resource_id)


def _explain(installation_id: str, resource_id: str | None) -> tuple[str, ...]:
    if resource_id is None:
        return "explain", installation_id
    return "explain", resource_id, "--installation", installation_id


def _dead_letters(backlog: Backlog) -> Iterator[Concern]:
    """Purged ones are no concern: a person gave them up."""
    dead_letters, least = backlog.dead_letters, "" if backlog.dead_letters_complete else "+"
    unexpected = {reason: count for reason, count in dead_letters.items() if reason not in EXPECTED_REASONS}
    if dead := sum(unexpected.values()):
        yield Concern(True, f"dead letters: {dead:,}{least} ({_by_size(unexpected)})", ("dead-letters", "causes"))
    if disabled := dead_letters.get(DeadLetterReason.DISABLED):
        command = ("dead-letters", "list", "--reason", "disabled")
        yield Concern(False, f"dead letters of disabled integrations: {disabled:,}{least}", command)


def _outages(status: Status) -> Iterator[Concern]:
    since = [one.outage for one in status.running if one.outage is not None]
    if since:
        what = (
            f"Vercel has been unavailable since {min(since):%Y-%m-%d %H:%M:%S} UTC for {len(since)} of {len(status.running)}"
            " dispatchers, so only probes are sent"
        )
        yield Concern(False, what, ("requests", "--failed"))


def _paused(status: Status) -> Iterator[Concern]:
    paused, known = status.backlog.paused_installations, status.backlog.installations
    refused = paused.get(PauseReason.UNAUTHORIZED, 0) + paused.get(PauseReason.NO_CREDENTIAL, 0)
    if refused > REFUSED_SHARE * known:
        what = f"the tokens of {refused:,} of {known:,} installations are refused or missing: is their source right?"
        yield Concern(True, what, ("check",))
    if number := sum(paused.values()):
        yield Concern(
            False, f"paused installations: {number:,} ({_by_size(paused)})", ("installations", "list", "--paused")
        )


def _why_silent(status: Status) -> str | None:
    """Returns why nothing is sent; None if requests are being sent, or if only probes are, because of an outage."""
    last = status.last_request
    if last is not None and last.age <= SILENCE_SECONDS:
        return None
    if status.dispatchers is None:
        return "is `dispatcher run` running?"
    if not status.running:
        return _last_seen(status)
    if not status.logs_successes or any(one.outage for one in status.running):
        return None
    return "a dispatcher is running, but makes no request: see its log"


def _last_seen(status: Status) -> str:
    silent = max(status.dispatchers or (), key=lambda one: one.seen_at, default=None)
    if silent is None:
        return "no dispatcher is running: start `dispatcher run`, or wait for the next `dispatcher drain`"
    ago = age((status.at - silent.seen_at).total_seconds())
    return f"no dispatcher is running: {silent.name} was last seen {ago} ago, and did not stop by itself"


def _by_size(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
