"""`dispatcher installations`: their states, and what an operator can do about an installation as a whole."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer

from dispatcher.cli import installation_detail, installation_list
from dispatcher.cli.confirmation import confirm, progress
from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.installation_detail import ID, InstallationId, unknown
from dispatcher.cli.options import AsJson, DryRun, Yes
from dispatcher.cli.output import number, print_json, shown
from dispatcher.cli.signature import By, Note, log, sign
from dispatcher.database.transactions import Database
from dispatcher.inspection.installations import (
    Due,
    count_due,
    count_pausable,
    count_paused,
    count_waiting,
)
from dispatcher.policy.decision import PauseReason
from dispatcher.settings.settings import load_settings
from dispatcher.store.installations import pause, pause_all, purge, resume, resume_all

app = typer.Typer(name="installations", no_args_is_help=True, help="List, show, pause, resume and purge installations.")

app.add_typer(installation_list.app)
app.add_typer(installation_detail.app)

OneOrAll = Annotated[str | None, ID]
All = Annotated[bool, typer.Option("--all", help="All installations; not with an ID.")]


@app.command("pause")
def pause_(
    installation_id: OneOrAll = None,
    all_: All = False,
    by: By = None,
    note: Note = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Send nothing for one installation, or for all, until resumed.

    Their events are kept. Requests in flight are not interrupted. --all pauses the installations that are known now: one whose first
    event comes later is served. Exit code 3 if there is none.

    \b
    dispatcher installations pause icfg_1 --note "moves to another region"
    dispatcher installations pause --all --dry-run
    """
    _choose(installation_id, all_=all_)
    settings, signature = load_settings(), sign(by, note)
    with checked(settings) as database:
        if installation_id is None:
            count = _matching(
                count_pausable(database), "no installation is known, or an operator has paused them all already"
            )
            _ask(f"Pause {number(count, 'installation')}?", yes=yes, dry_run=dry_run)
            done = 0 if dry_run else pause_all(database, signature, progress(count))
            left = count_pausable(database)
        else:
            count, left = 1, 0
            done = _once(
                database, installation_id, lambda: pause(database, installation_id, signature), dry_run=dry_run
            )
    if done:
        log(settings, "installations paused", signature, installation_id=installation_id or "all", installations=done)
    if as_json:
        print_json({"installations": count, "paused": done})
    elif dry_run:
        typer.echo(f"{number(count, 'installation')} would be paused; nothing was changed")
    elif installation_id is None:
        typer.echo(f"paused {number(done, 'installation')} until `dispatcher installations resume --reason operator`")
    else:
        typer.echo(
            f"{shown(installation_id)} is paused until `dispatcher installations resume {shown(installation_id)}`"
        )
    _complain(0 if dry_run else left, "are not paused")


@app.command("resume")
def resume_(
    installation_id: OneOrAll = None,
    all_: All = False,
    reason: Annotated[PauseReason | None, typer.Option("--reason", help="All that are paused for this reason.")] = None,
    by: By = None,
    note: Note = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End the pause of one installation, or of all.

    Its deliveries are sent within the rate limit, as soon as they are due: a delivery that failed before the pause still waits for its
    next attempt, which `dispatcher deliveries retry` makes due now. Exit code 3 if there is none.

    \b
    dispatcher installations resume icfg_1
    dispatcher installations resume --reason unauthorized --dry-run
    dispatcher installations resume --all --yes
    """
    _choose(installation_id, all_=all_ or reason is not None)
    settings, signature = load_settings(), sign(by, note)
    due: Due | None = None
    with checked(settings) as database:
        if installation_id is None:
            count = _matching(count_paused(database, reason), "no installation is paused" + _for(reason))
            _ask(f"Resume {number(count, 'installation')}{_for(reason)}?", yes=yes, dry_run=dry_run)
            done = 0 if dry_run else resume_all(database, reason, progress(count))
            left = count_paused(database, reason)
        else:
            count, left = 1, 0
            done = _once(database, installation_id, lambda: resume(database, installation_id), dry_run=dry_run)
            due = count_due(database, installation_id)
    if done:
        log(settings, "installations resumed", signature, installation_id=installation_id or "all", installations=done)
    if as_json:
        print_json({"installations": count, "resumed": done, **({} if due is None else _due(due))})
    elif dry_run:
        typer.echo(f"{number(count, 'installation')} would be resumed; nothing was changed")
    elif installation_id is None or due is None:
        typer.echo(
            f"resumed {number(done, 'installation')}: their deliveries are sent within the rate limit, as soon as they are due;"
            " `dispatcher deliveries retry --all` makes those in backoff due now"
        )
    else:
        typer.echo(f"{shown(installation_id)} is not paused: {_describe(due, installation_id)}")
    _complain(0 if dry_run else left, "are still paused")


def _choose(installation_id: str | None, *, all_: bool) -> None:
    if (installation_id is None) != all_:
        raise CommandFailed("choose which: give an installation's id, or else --all (resume: or --reason)", Exit.USAGE)


def _matching(count: int, none: str) -> int:
    if not count:
        raise CommandFailed(f"{none}: nothing was changed", Exit.NOTHING_MATCHED)
    return count


def _ask(question: str, *, yes: bool, dry_run: bool) -> None:
    if not dry_run:
        confirm(question, yes=yes)


def _once(database: Database, installation_id: str, change: Callable[[], bool], *, dry_run: bool) -> int:
    """Changes one installation. Returns how many were changed; raises CommandFailed if it is unknown."""
    known = count_waiting(database, installation_id) is not None if dry_run else change()
    if not known:
        raise unknown(installation_id)
    return 0 if dry_run else 1


def _complain(left: int, state: str) -> None:
    if left:
        why = "another session keeps them locked, or they are new"
        raise CommandFailed(f"{number(left, 'installation')} {state}: {why}. Repeat the command")


def _for(reason: PauseReason | None) -> str:
    return "" if reason is None else f" for the reason {reason}"


def _due(due: Due) -> dict[str, object]:
    return {"events": due.events, "due": due.now, "due_later": due.later, "next_due_at": due.first_later}


def _describe(due: Due, installation_id: str) -> str:
    if not due.events + due.now + due.later:
        return "nothing waits to be sent"
    now = f"{number(due.events, 'event')} and {number(due.now, 'delivery')} due now, sent within the rate limit"
    if not due.later:
        return now
    return (
        f"{now}; {number(due.later, 'delivery')} later, the first at {shown(due.first_later)} UTC:"
        f" `dispatcher deliveries retry --installation {shown(installation_id)}` makes them due now"
    )


@app.command("purge")
def purge_(
    installation_id: InstallationId,
    by: By = None,
    note: Note = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give up everything that waits for an installation.

    Use it when a customer has uninstalled the integration: the installation is forgotten. Its deliveries and its events in the
    outbox become dead letters with the reason "purged", which are resolved. To undo this: `dispatcher dead-letters replay
    --installation ID --reason purged`. Exit code 3 if the installation is unknown. Your application can do the same in its own
    transaction: `InstallationRemoved`.

    \b
    dispatcher installations purge icfg_1 --dry-run
    dispatcher installations purge icfg_1 --yes --note "uninstalled"
    """
    settings, signature = load_settings(), sign(by, note)
    with checked(settings) as database:
        waiting = count_waiting(database, installation_id)
        if waiting is None:
            raise unknown(installation_id)
        dead_letters = 0
        what = f"{number(waiting.deliveries, 'delivery')} and {number(waiting.events, 'event')} of {shown(installation_id)}"
        if not dry_run:
            confirm(f"Purge {what}?", yes=yes)
            window = timedelta(seconds=settings.rate_limit.seconds if settings.rate_limit else 0)
            show_progress = progress(waiting.deliveries)
            dead_letters = purge(database, installation_id, show_progress, signature=signature, rate_window=window)
            log(
                settings,
                "installation purged",
                signature,
                installation_id=installation_id,
                dead_letters=dead_letters,
            )
    if as_json:
        waits = {"events": waiting.events, "deliveries": waiting.deliveries}
        print_json({"installation_id": installation_id, **waits, "dead_letters": dead_letters})
    elif dry_run:
        typer.echo(f"{what} wait; nothing was changed")
    else:
        typer.echo(f"{number(dead_letters, 'dead letter')} (purged) of {shown(installation_id)}")
