"""The partner's tables. `dispatcher migrate` creates the dispatcher's: Django's migrations change no table that has no model."""

from django.db import models


class Database(models.Model):
    """A product sold on the Marketplace: a resource of an installation."""

    id = models.CharField(primary_key=True, max_length=64)
    installation_id = models.CharField(max_length=128)
    name = models.CharField(max_length=64)

    class Meta:
        db_table = "databases"

    def __str__(self) -> str:
        return self.name
