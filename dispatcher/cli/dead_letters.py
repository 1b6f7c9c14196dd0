"""`dispatcher dead-letters`: events that could not be delivered, and what a person can do about them."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from dispatcher.cli import aftermath, causes, resolutions
from dispatcher.cli.confirmation import confirm, progress
from dispatcher.cli.database import checked
from dispatcher.cli.dead_letter_filter import MAX_ID, Choice, Ids, with_choice
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, DryRun, Limit, Yes
from dispatcher.cli.output import cut, number, print_columns, print_facts, print_json, shown
from dispatcher.cli.signature import By, Note, sign
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import (
    ADVICE,
    DeadLetter,
    Plan,
    find_dead_letter,
    list_dead_letters,
    plan,
)
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.settings.durations import age
from dispatcher.settings.settings import Settings, load_settings
from dispatcher.store.attempt_log import Attempt
from dispatcher.store.dead_letters import Filter, discard, replay

app = typer.Typer(
    name="dead-letters", no_args_is_help=True, help="List, show, replay and discard undeliverable events."
)

app.add_typer(causes.app)
app.add_typer(aftermath.app)
app.add_typer(resolutions.app)

MAX_ERROR_LENGTH = 60

_BEFORE = typer.Option("--before", min=1, max=MAX_ID, metavar="ID", help="Those with lower ids: the next page.")
Before = Annotated[int | None, _BEFORE]
_OLDEST = typer.Option("--oldest", min=1, max=MAX_ID, metavar="N", help="At most this many, the oldest.")
Oldest = Annotated[int | None, _OLDEST]
All = Annotated[bool, typer.Option("--all", help="All unresolved ones; not with another filter.")]


@app.command("list")
@with_choice
def list_(
    choice: Choice,
    id_: Ids = None,
    before: Before = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Include resolved ones.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, unresolved ones first, newest first.

    Resolved ones, which were replayed, superseded or discarded, are left out unless --resolved. Exit code 3 if there are none.

    \b
    dispatcher dead-letters list --since 24h
    dispatcher dead-letters list --installation icfg_1 --reason unauthorized
    dispatcher dead-letters list --reason rejected --error "billing plan plan_"
    """
    with checked(load_settings()) as database:
        wanted = choice.filter(database, id_, before)
        letters = list_dead_letters(database, wanted, limit, resolved=resolved)
    if as_json:
        for letter in letters:
            print_json(asdict(letter))
    elif letters:
        print_columns(
            ("id", "died at (UTC)", "reason", "installation", "resource", "status", "error"), map(_row, letters)
        )
    if not letters:
        kind = "dead letter" if resolved else "unresolved dead letter"
        raise CommandFailed(f"no {kind} matches" if wanted.conditions else f"no {kind}s", Exit.NOTHING_MATCHED)
    if len(letters) == limit:
        page = "" if resolved and before is None else f", or --before {letters[-1].id}"
        typer.echo(f"the first {limit:,} are listed, there may be more: --limit{page}", err=True)


def _row(letter: DeadLetter) -> tuple[object, ...]:
    reason = letter.reason if letter.resolution is None else f"{letter.reason}, {letter.resolution}"
    error = cut(letter.last_error or "", MAX_ERROR_LENGTH)
    return (letter.id, letter.died_at, reason, letter.installation_id, letter.resource_id, letter.last_status, error)


@app.command()
def show(
    id_: Annotated[int, typer.Argument(min=1, max=MAX_ID, metavar="ID", help="The dead letter's id.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter, its attempts and what to do about it.

    Exit code 3 if there is none with this id.
    """
    with checked(load_settings()) as database:
        details = find_dead_letter(database, id_)
    if details is None:
        raise CommandFailed(f"there is no dead letter {id_}", Exit.NOTHING_MATCHED)
    letter, attempts = details
    advice = ADVICE[DeadLetterReason(letter.reason)]
    if as_json:
        print_json({**asdict(letter), "log": [asdict(one) for one in attempts], "advice": advice})
        return
    _show(letter)
    if attempts:
        typer.echo("")
        print_columns(
            ("attempt", "at (UTC)", "outcome", "status", "ms", "decision", "vercel id", "error"),
            map(_attempt, attempts),
        )
    if letter.resolved_at is None:
        typer.echo(f"\n{advice}")


def _show(letter: DeadLetter) -> None:
    resolved = letter.resolved_at and f"{shown(letter.resolved_at)} UTC, {letter.resolution}"
    print_facts(
        [
            ("dead letter", letter.id),
            ("reason", letter.reason),
            ("died at", f"{shown(letter.died_at)} UTC"),
            ("installation", letter.installation_id),
            ("type", letter.type),
            ("resource", letter.resource_id),
            ("product", letter.product_id),
            ("billing plan", letter.billing_plan_id),
            ("events", _events(letter)),
            ("first event at", f"{shown(letter.first_created_at)} UTC"),
            ("attempts", letter.attempts),
            ("last status", letter.last_status),
            ("last error", letter.last_error),
            ("resolved at", resolved),
            ("resolved by", letter.resolved_by),
            ("note", letter.note),
        ]
    )


def _events(letter: DeadLetter) -> str:
    if letter.events == 1:
        return f"1 (id {letter.first_event_id})"
    return f"{letter.events:,} (ids {letter.first_event_id} to {letter.last_event_id})"


def _attempt(one: Attempt) -> tuple[object, ...]:
    decision = one.decision.replace("_", " ")
    return (one.attempt, one.at, one.outcome, one.status, one.duration_ms, decision, one.vercel_id, one.error or "")


@app.command("replay")
@with_choice
def replay_(
    choice: Choice,
    id_: Ids = None,
    oldest: Oldest = None,
    all_: All = False,
    by: By = None,
    note: Note = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Send the events of dead letters again.

    They go through the outbox once more, and are sent within the rate limit. A replayed dead letter is resolved, so repeating the
    command does not send it twice. With --reason purged, those that a purge has resolved are taken too. Exit code 3 if nothing matched,
    1 if nothing that matched can be replayed.

    \b
    dispatcher dead-letters replay --id 7
    dispatcher dead-letters replay --reason exhausted --since 24h --dry-run
    dispatcher dead-letters replay --reason rejected --oldest 10
    """
    settings = load_settings()
    signature = sign(by, note)
    with checked(settings) as database:
        wanted = choice.filter(database, id_)
        planned = _plan(database, wanted, oldest, all_=all_, for_replay=True)
        if not dry_run and planned.malformed == planned.dead_letters:
            raise CommandFailed(f"nothing can be replayed. {_malformed(planned)}")
        account = _account(planned, settings)
        if not dry_run:
            confirm(f"Replay {_describe(account)}?", yes=yes)
            show_progress = progress(planned.dead_letters - planned.malformed)
            account["replayed"] = replay(database, wanted, planned.last_id, signature, show_progress)
    _report(account, "replayed", as_json=as_json)
    if planned.malformed:
        typer.echo(_malformed(planned), err=True)


@app.command("discard")
@with_choice
def discard_(
    choice: Choice,
    id_: Ids = None,
    oldest: Oldest = None,
    all_: All = False,
    by: By = None,
    note: Note = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Resolve dead letters without sending anything.

    Their rows are deleted after DISPATCHER_DEAD_LETTER_RETENTION. Exit code 3 if nothing matched.

    \b
    dispatcher dead-letters discard --id 7 --note "the database was deleted"
    dispatcher dead-letters discard --installation icfg_1 --reason gone
    """
    settings = load_settings()
    signature = sign(by, note)
    with checked(settings) as database:
        wanted = choice.filter(database, id_)
        planned = _plan(database, wanted, oldest, all_=all_)
        account = {"dead_letters": planned.dead_letters, "discarded": 0}
        if not dry_run:
            confirm(f"Discard {_describe(account)}?", yes=yes)
            account["discarded"] = discard(database, wanted, planned.last_id, signature, progress(planned.dead_letters))
    _report(account, "discarded", as_json=as_json)


def _plan(database: Database, wanted: Filter, oldest: int | None, *, all_: bool, for_replay: bool = False) -> Plan:
    if (bool(wanted.conditions) or oldest is not None) == all_:
        options = "--id, --installation, --resource, --reason, --status, --error, --since or --oldest"
        raise CommandFailed(f"choose which: give {options}, or else --all", Exit.USAGE)
    planned = plan(database, wanted, for_replay=for_replay, oldest=oldest)
    if not planned.dead_letters:
        raise CommandFailed("no unresolved dead letter matches: nothing was changed", Exit.NOTHING_MATCHED)
    return planned


def _account(planned: Plan, settings: Settings) -> dict[str, Any]:
    return {
        "dead_letters": planned.dead_letters,
        "malformed": planned.malformed,
        "requests": planned.requests,
        "complete": planned.complete,
        "seconds": planned.seconds(settings.rate_limit, settings.global_rate_limit),
        "replayed": 0,
    }


def _describe(account: dict[str, Any]) -> str:
    rows = number(account["dead_letters"], "dead letter")
    if "requests" not in account:
        return rows
    least = "" if account["complete"] else "at least "
    return (
        f"{rows}: {least}{number(account['requests'], 'request')}, {age(account['seconds'])} or more at the rate limit"
    )


def _report(account: dict[str, Any], done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(account)
    elif account[done]:
        typer.echo(f"{done} {number(account[done], 'dead letter')}")
    else:
        typer.echo(f"{_describe(account)}; nothing was changed")


def _malformed(planned: Plan) -> str:
    return f"{number(planned.malformed, 'dead letter')} cannot be replayed. {ADVICE[DeadLetterReason.MALFORMED]}"
