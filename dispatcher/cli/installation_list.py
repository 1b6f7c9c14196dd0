"""`dispatcher installations list`: the installations, by what is wrong with them."""

from dataclasses import asdict
from typing import Annotated

import typer

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, Limit
from dispatcher.cli.output import print_columns, print_json
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installation_list import Key, View, list_installations
from dispatcher.inspection.installations import Installation
from dispatcher.policy.decision import PauseReason
from dispatcher.settings.settings import load_settings
from dispatcher.store.installations import FOREVER

app = typer.Typer()

HEADER = (
    "installation",
    "state",
    "deliveries",
    "failures",
    "reason",
    "since (UTC)",
    "next (UTC)",
    "begins to die (UTC)",
    "delivered (UTC)",
)
_NONE = {
    View.ALL: "no installation is known yet",
    View.PAUSED: "there is no paused installation",
    View.FAILING: "there is no failing installation",
    View.BEHIND: "no installation has work that is due",
}


@app.command("list")
def list_(
    paused: Annotated[
        bool, typer.Option("--paused", help="List paused ones only, those that begin to die soonest first.")
    ] = False,
    reason: Annotated[PauseReason | None, typer.Option("--reason", help="With --paused: for this reason.")] = None,
    failing: Annotated[
        bool, typer.Option("--failing", help="List those with pending work whose requests fail, the worst first.")
    ] = False,
    behind: Annotated[
        bool, typer.Option("--behind", help="List those with work that is due, the longest due first.")
    ] = False,
    prefix: Annotated[
        str,
        typer.Option("--prefix", metavar="icfg_…", help="List those whose ids begin with this.", show_default=False),
    ] = "",
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="KEY", help="The page after this key, which the page before has named."),
    ] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List installations, trouble first, with their pending work.

    Those without a valid token come first, then failing ones, other pauses, and the rest by the time they are due. The column "next" is
    when the dispatcher looks at an installation again, "begins to die" when failures begin to turn its deliveries into dead letters.
    For each state at most 100,000 installations are searched, and 1,000 deliveries of each are counted. Exit code 3 if there are none.

    \b
    dispatcher installations list --paused --reason unauthorized
    dispatcher installations list --failing --json
    dispatcher installations list --behind
    """
    settings, view = load_settings(), _view(paused=paused, failing=failing, behind=behind)
    if reason is not None and view is not View.PAUSED:
        raise CommandFailed("--reason goes with --paused", Exit.USAGE)
    key = _key(after, view)
    with checked(settings) as database:
        installations = list_installations(database, Graces.of(settings), limit, view, prefix, reason, key)
    if as_json:
        for one in installations:
            print_json(json_of(one))
    elif installations:
        by_hand = any(one.paused_by or one.pause_note for one in installations)
        print_columns(
            (*HEADER, *(("paused by", "note") if by_hand else ())), (_row(one, by_hand) for one in installations)
        )
    if not installations:
        why = "" if reason is None else f" for the reason {reason}"
        none = (
            _NONE[view] + why + (" whose id begins so" if prefix else "") + ("" if key is None else " after this key")
        )
        raise CommandFailed(none, Exit.NOTHING_MATCHED)
    if len(installations) == limit:
        more = f"--limit, or --after {Key.of(installations[-1], view)}"
        typer.echo(
            f"the {'first' if key is None else 'next'} {limit:,} are listed, there may be more: {more}", err=True
        )


def _view(*, paused: bool, failing: bool, behind: bool) -> View:
    chosen = [
        view for view, wanted in ((View.PAUSED, paused), (View.FAILING, failing), (View.BEHIND, behind)) if wanted
    ]
    if len(chosen) > 1:
        raise CommandFailed("choose one of --paused, --failing and --behind", Exit.USAGE)
    return chosen[0] if chosen else View.ALL


def _key(text: str | None, view: View) -> Key | None:
    try:
        return None if text is None else Key.parse(text, view)
    except ValueError as error:
        raise CommandFailed(f"--after {error}", Exit.USAGE) from None


def _row(one: Installation, by_hand: bool) -> tuple[object, ...]:
    next_ = "when resumed" if one.paused_until == FOREVER else one.due_at
    return (
        one.installation_id,
        one.state,
        one.deliveries if one.deliveries_complete else f"{one.deliveries}+",
        one.failures,
        one.pause_reason,
        one.paused_since,
        next_,
        "never" if one.pause_reason is not None and one.dies_at is None else one.dies_at,
        one.last_delivered_at,
        *((one.paused_by, one.pause_note) if by_hand else ()),
    )


def json_of(one: Installation) -> dict[str, object]:
    """The table's columns. An operator's pause has no end, so its end is null."""
    endless = {name: None for name in ("paused_until", "due_at") if getattr(one, name) == FOREVER}
    return {"state": one.state, **asdict(one), **endless}
