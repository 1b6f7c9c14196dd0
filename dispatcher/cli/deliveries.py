"""`dispatcher deliveries`: what is waiting to be sent, and sending it now."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from dispatcher.cli.confirmation import confirm, progress
from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson, DryRun, Limit, OfInstallation, OfResource, Since, Yes, parse_since
from dispatcher.cli.output import number, print_columns, print_json
from dispatcher.inspection.deliveries import RetryPlan, WaitingDelivery, list_deliveries, plan_retry
from dispatcher.inspection.graces import Graces
from dispatcher.settings.durations import age
from dispatcher.settings.settings import load_settings
from dispatcher.store.deliveries import DeliveryFilter, retry

app = typer.Typer(name="deliveries", no_args_is_help=True, help="List what is waiting to be sent, and retry it now.")


@app.command("list")
def list_(
    installation: OfInstallation = None,
    resource: OfResource = None,
    since: Since = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the deliveries that are waiting, the longest waiting first.

    The last two columns say when something happens next, and what. Without --installation, at most 100,000 deliveries are searched.
    Exit code 3 if none is waiting.

    \b
    dispatcher deliveries list
    dispatcher deliveries list --installation icfg_1 --json
    """
    settings = load_settings()
    with checked(settings) as database:
        wanted = DeliveryFilter(installation, resource, parse_since(since, database.now))
        listing = list_deliveries(database, wanted, Graces.of(settings), limit)
    if as_json:
        for one in listing.deliveries:
            print_json(asdict(one))
    elif listing.deliveries:
        header = (
            "installation",
            "resource",
            "product",
            "events",
            "oldest event (UTC)",
            "attempts",
            "status",
            "next (UTC)",
            "what",
        )
        print_columns(header, map(_row, listing.deliveries))
    if not listing.deliveries:
        raise CommandFailed("no delivery is waiting", Exit.NOTHING_MATCHED)
    if not listing.complete:
        typer.echo("there may be more: raise --limit, or name an --installation", err=True)


def _row(one: WaitingDelivery) -> tuple[object, ...]:
    return (
        one.installation_id,
        one.resource_id,
        one.product_id,
        one.events,
        one.first_created_at,
        one.attempts,
        one.last_status,
        one.next_at,
        one.next,
    )


@app.command("retry")
def retry_(
    installation: OfInstallation = None,
    resource: OfResource = None,
    since: Since = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them; not with another filter.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Send deliveries now that wait for their next attempt.

    For example after an incident, so that they need not wait for the end of their backoff. They are sent within the rate limit, and
    the attempts so far still count. Paused installations stay paused: see `dispatcher installations resume`. Exit code 3 if none matched.

    \b
    dispatcher deliveries retry --resource db_1
    dispatcher deliveries retry --all --dry-run
    """
    settings = load_settings()
    with checked(settings) as database:
        wanted = DeliveryFilter(installation, resource, parse_since(since, database.now))
        if bool(wanted.of()) == all_:
            raise CommandFailed("choose which: give --installation, --resource or --since, or else --all", Exit.USAGE)
        planned = plan_retry(database, wanted)
        if not planned.deliveries:
            raise CommandFailed(
                "no matching delivery waits for a later attempt: nothing was changed", Exit.NOTHING_MATCHED
            )
        seconds = planned.seconds(settings.rate_limit, settings.global_rate_limit)
        what = f"{number(planned.deliveries, 'delivery')}: {_describe(planned, seconds)}"
        account = _account(planned, seconds)
        if not dry_run:
            confirm(f"Retry {what}?", yes=yes)
            account["retried"] = retry(database, wanted, progress(planned.deliveries))
    if as_json:
        print_json(account)
    elif dry_run:
        typer.echo(f"{what}; nothing was changed")
    else:
        typer.echo(f"{number(account['retried'], 'delivery')} made due now: {_describe(planned, seconds)}")


def _describe(planned: RetryPlan, seconds: float) -> str:
    sent = f"{number(planned.requests, 'request')}, {age(seconds)} or more at the rate limit"
    return f"{sent}; {planned.paused:,} wait until their installation is resumed" if planned.paused else sent


def _account(planned: RetryPlan, seconds: float) -> dict[str, Any]:
    return {
        "deliveries": planned.deliveries,
        "paused": planned.paused,
        "requests": planned.requests,
        "seconds": seconds,
        "retried": 0,
    }
