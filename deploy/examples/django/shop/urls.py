"""The application's URLs and views."""

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path

from dispatcher import ResourceUpdated, publish
from shop.models import Database


class Refused(Exception):
    """The change cannot be made."""


@transaction.atomic  # commits at its end, rolls back if anything raises
def change_name(database_id: str, name: str) -> None:
    """Renames a database and publishes the event that notifies Vercel."""
    database = get_object_or_404(Database.objects.select_for_update(), pk=database_id)
    database.name = name
    database.save()
    publish(connection, ResourceUpdated(installation_id=database.installation_id, resource_id=database.id))
    if not name:
        raise Refused("a database needs a name")  # rolls back the event with the change


def rename(request: HttpRequest, database_id: str) -> JsonResponse:
    """`/databases/ID?name=NAME`."""
    name = request.GET.get("name", "")
    try:
        change_name(database_id, name)
    except Refused as refused:
        return JsonResponse({"error": str(refused)}, status=422)
    return JsonResponse({"id": database_id, "name": name})


urlpatterns = [path("databases/<str:database_id>", rename)]
