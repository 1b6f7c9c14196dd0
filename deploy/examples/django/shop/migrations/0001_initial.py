"""The first tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Creates the table of databases."""

    initial = True
    operations = (
        migrations.CreateModel(
            name="Database",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("installation_id", models.CharField(max_length=128)),
                ("name", models.CharField(max_length=64)),
            ],
            options={"db_table": "databases"},
        ),
    )
