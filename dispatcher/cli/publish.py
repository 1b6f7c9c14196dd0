"""`dispatcher publish`: one event, by hand."""

from functools import partial
from typing import Annotated

import typer
from pydantic import ValidationError

from dispatcher.cli.database import checked
from dispatcher.cli.exits import CommandFailed, Exit
from dispatcher.cli.options import AsJson
from dispatcher.cli.output import print_json, shown
from dispatcher.outbox.events import Event, InstallationUpdated, ResourceUpdated, subject_of
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
    as_json: AsJson = False,
) -> None:
    """Write one event into the outbox by hand.

    With --resource it announces a change of the resource, otherwise one of the installation. A running dispatcher delivers it like
    any other event.

    \b
    dispatcher publish --installation icfg_1 --resource db_1
    dispatcher publish --installation icfg_1 --plan pro
    """
    event = _event(installation, resource, product, plan)
    with checked(load_settings()) as database:
        event_id = database.transact(partial(insert_and_identify, event=event))
    subject = subject_of(event)
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
    try:
        if resource is not None:
            return ResourceUpdated(installation_id=installation, resource_id=resource, product_id=product)
        return InstallationUpdated(installation_id=installation, billing_plan_id=plan)
    except ValidationError as invalid:
        raise CommandFailed(_problems(invalid), Exit.USAGE) from None


def _problems(invalid: ValidationError) -> str:
    return "; ".join(
        f"{_OPTIONS.get(str(error['loc'][0]), str(error['loc'][0]))}: {error['msg'].removeprefix('Value error, ')}"
        for error in invalid.errors(include_input=False, include_url=False)
    )
