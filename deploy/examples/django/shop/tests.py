"""The application's own tests: `DATABASE_URL=postgresql://… python manage.py test`."""

from django.db import connection
from django.test import TestCase

from dispatcher import ResourceUpdated
from dispatcher.testing import assert_announced, create_tables
from shop.models import Database


class Rename(TestCase):
    """A change and its event are one transaction."""

    @classmethod
    def setUpTestData(cls) -> None:
        create_tables(connection)  # Django's migrations, which make the test database, do not
        Database.objects.create(id="db_1", installation_id="icfg_1", name="first")

    def test_a_rename_is_announced(self) -> None:
        response = self.client.get("/databases/db_1?name=second", HTTP_HOST="localhost")
        assert response.status_code == 200
        assert_announced(connection, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))

    def test_a_refused_rename_is_not(self) -> None:
        response = self.client.get("/databases/db_1?name=", HTTP_HOST="localhost")
        assert response.status_code == 422
        assert_announced(connection)
