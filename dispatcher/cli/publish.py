"""`dispatcher publish`: one event, by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import typer
from pydantic import ValidationError

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import print_json, shown
from dispatcher.cli.signature import By, Note, log, sign
from dispatcher.outbox.events import Event, InstallationRemoved, InstallationUpdated, ResourceUpdated, subject_of
from dispatcher.outbox.publisher import insert_and_identify
from dispatcher.settings.settings import load_settings

app = typer.Typer()

_OPTIONS = {
    "installation_id": "--installation",
    "resource_id": "--resource",
    "product_id": "--product",
    "billing_plan_id": "--plan",
}


@app.command()
def publish(
    installation: Annotated[str, typer.Option(metavar="icfg_…", help="The installation's id.")],
    resource: Annotated[str | None, typer.Option(metavar="ID", help="Your id of the resource that changed.")] = None,
    product: Annotated[str | None, typer.Option(metavar="ID", help="Your id of the resource's product.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="ID", help="Without --resource: the new billing plan.")] = None,
    removed: Annotated[
        bool, typer.Option("--removed", help="The customer has uninstalled: purge what waits for the installation.")
    ] = False,
    by: By = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Write one event into the outbox by hand.

    With --resource it announces a change of the resource, otherwise one of the installation. A running dispatcher delivers it like
    any other event. With --removed nothing is sent: everything written before it for the installation is given up.

    \b
    dispatcher publish --installation icfg_1 --resource db_1
    dispatcher publish --installation icfg_1 --plan pro
    dispatcher publish --installation icfg_1 --removed
    """
    event = (
        _removed(installation, resource, product, plan) if removed else _event(installation, resource, product, plan)
    )
    settings, signature = load_settings(), sign(by, note)
    with checked(settings) as database:
        event_id = database.transact(partial(insert_and_identify, event=event))
    subject = subject_of(event)
    log(settings, "event published", signature, event_id=event_id, **subject._asdict())
    if as_json:
        print_json(
            {
                "id": event_id,
                "installation_id": subject.installation_id,
                "type": subject.type,
                "resource_id": subject.resource_id,
                "product_id": product,
                "billing_plan_id": plan,
            }
        )
    else:
        about = subject.resource_id or subject.installation_id
        typer.echo(f"event {event_id} is in the outbox: {subject.type} {shown(about)}")


def _event(installation: str, resource: str | None, product: str | None, plan: str | None) -> Event:
    if resource is None and product is not None:
        raise CommandFailed("--product goes with --resource only: a product changes nothing by itself", Exit.USAGE)
    if resource is not None and plan is not None:
        raise CommandFailed("--plan goes without --resource: it is the installation's billing plan", Exit.USAGE)
    with _refused():
        if resource is not None:
            return ResourceUpdated(installation_id=installation, resource_id=resource, product_id=product)
        return InstallationUpdated(installation_id=installation, billing_plan_id=plan)


def _removed(installation: str, *others: str | None) -> Event:
    if any(other is not None for other in others):
        raise CommandFailed("--removed goes with --installation only: all of its resources are gone", Exit.USAGE)
    with _refused():
        return InstallationRemoved(installation_id=installation)


@contextmanager
def _refused() -> Iterator[None]:
    """Reports an invalid event by the options that it was made from."""
    try:
        yield
    except ValidationError as invalid:
        raise CommandFailed(_problems(invalid), Exit.USAGE) from None


def _problems(invalid: ValidationError) -> str:
    return "; ".join(
        f"{_OPTIONS.get(str(error['loc'][0]), str(error['loc'][0]))}: {error['msg'].removeprefix('Value error, ')}"
        for error in invalid.errors(include_input=False, include_url=False)
    )
