"""A row that could never be delivered is refused in the partner's own transaction, by a constraint whose name gives the reason."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ColumnElement, Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import outbox
from tests.contract.steps import count

GOOD: dict[str, object] = {"installation_id": "icfg_1", "type": "resource.updated", "resource_id": "db_1"}
PLAN: dict[str, object] = {"installation_id": "icfg_1", "type": "installation.updated", "billing_plan_id": "pro"}
REMOVED: dict[str, object] = {"installation_id": "icfg_1", "type": "installation.removed"}
LONG = "x" * 256


def insert(partner: Engine, row: dict[str, object]) -> None:
    columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)
    with partner.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO vercel_outbox ({columns}) VALUES ({values})"), row)


REFUSED = [
    (GOOD | {"installation_id": "icfg 1"}, "vercel_outbox_installation_id_is_valid"),
    (GOOD | {"installation_id": ""}, "vercel_outbox_installation_id_is_valid"),
    (GOOD | {"installation_id": "icfg_1\n"}, "vercel_outbox_installation_id_is_valid"),
    (GOOD | {"installation_id": "icfg_\u00e9"}, "vercel_outbox_installation_id_is_valid"),
    (GOOD | {"installation_id": "icfg/../1"}, "vercel_outbox_installation_id_is_valid"),
    (GOOD | {"installation_id": None}, "installation_id"),
    (GOOD | {"type": None}, "type"),
    ({"installation_id": "icfg_1", "type": "resource.deleted"}, "vercel_outbox_type_is_known"),
    ({"installation_id": "icfg_1", "type": "INSTALLATION.UPDATED"}, "vercel_outbox_type_is_known"),
    ({"installation_id": "icfg_1", "type": "installation.updated "}, "vercel_outbox_type_is_known"),
    (GOOD | {"resource_id": None}, "vercel_outbox_resource_id_goes_with_resource_updated"),
    (PLAN | {"resource_id": "db_1"}, "vercel_outbox_resource_id_goes_with_resource_updated"),
    (PLAN | {"product_id": "pg"}, "vercel_outbox_product_id_goes_with_resource_updated"),
    (GOOD | {"billing_plan_id": "pro"}, "vercel_outbox_billing_plan_id_goes_with_installation_updated"),
    (REMOVED | {"resource_id": "db_1"}, "vercel_outbox_resource_id_goes_with_resource_updated"),
    (REMOVED | {"product_id": "pg"}, "vercel_outbox_product_id_goes_with_resource_updated"),
    (REMOVED | {"billing_plan_id": "pro"}, "vercel_outbox_billing_plan_id_goes_with_installation_updated"),
    (GOOD | {"resource_id": ""}, "vercel_outbox_resource_id_is_valid"),
    (GOOD | {"product_id": ""}, "vercel_outbox_product_id_is_valid"),
    (PLAN | {"billing_plan_id": ""}, "vercel_outbox_billing_plan_id_is_valid"),
    (GOOD | {"resource_id": "a\nb"}, "vercel_outbox_resource_id_is_valid"),
    (GOOD | {"product_id": "\x7f"}, "vercel_outbox_product_id_is_valid"),
    (PLAN | {"billing_plan_id": "pro\x9b"}, "vercel_outbox_billing_plan_id_is_valid"),
]


@pytest.mark.parametrize(("row", "name"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_an_impossible_row_is_refused_by_name(
    database: Database, partner: Engine, row: dict[str, object], name: str
) -> None:
    with pytest.raises(DBAPIError, match=name):
        insert(partner, row)
    assert count(database, outbox) == 0


def refusing(partner: Engine, row: dict[str, object]) -> list[str]:
    """Returns the names of all constraints that this row breaks; an INSERT reports only one."""
    columns = (sa.cast(row.get(column.name), column.type).label(column.name) for column in outbox.columns)
    values = sa.select(*columns).subquery()
    checks = {str(one.name): one.sqltext for one in outbox.constraints if isinstance(one, CheckConstraint)}
    conditions: dict[str, ColumnElement[Any]] = {
        name: sa.literal_column(f"({check.compile(partner)})") for name, check in checks.items()
    }
    with partner.connect() as connection:
        kept = connection.execute(sa.select(*conditions.values()).select_from(values)).one()
    return [name for name, is_kept in zip(conditions, kept, strict=True) if is_kept is not None and not is_kept]


UNKNOWN = [
    {"installation_id": "icfg_1", "type": "resource.deleted"},
    GOOD | {"type": "resource.update", "product_id": "pg"},
    PLAN | {"type": "installation.update"},
]


@pytest.mark.parametrize("row", UNKNOWN, ids=lambda row: str(row["type"]))
def test_an_unknown_type_breaks_the_constraint_of_the_type_alone(
    database: Database, partner: Engine, row: dict[str, object]
) -> None:
    assert refusing(partner, row) == ["vercel_outbox_type_is_known"]
    with pytest.raises(DBAPIError, match="vercel_outbox_type_is_known"):
        insert(partner, row)
    assert count(database, outbox) == 0


TOO_LONG = [GOOD | {"installation_id": LONG}, GOOD | {"resource_id": LONG}, PLAN | {"billing_plan_id": LONG}]


@pytest.mark.parametrize("row", TOO_LONG, ids=["installation", "resource", "plan"])
def test_an_id_that_is_too_long_is_refused(database: Database, partner: Engine, row: dict[str, object]) -> None:
    """Servers refuse it by the column's type: PostgreSQL reports the length, MySQL and MariaDB the column. SQLite has the constraint."""
    with pytest.raises(DBAPIError, match=r"too long|Data too long|_is_valid"):
        insert(partner, row)
    assert count(database, outbox) == 0


LONGEST = [
    GOOD | {"installation_id": "x" * 128, "resource_id": "\u6c34" * 255, "product_id": "\u00e9" * 255},
    PLAN | {"billing_plan_id": "\U0001f600" * 255},
]


@pytest.mark.varies
@pytest.mark.parametrize("row", LONGEST, ids=["resource", "installation"])
def test_the_longest_possible_row_is_accepted_and_collected(
    database: Database, partner: Engine, row: dict[str, object]
) -> None:
    insert(partner, row)
    collected = store.collect(database, 9)
    assert (len(collected.subject_keys), collected.malformed) == (1, ())
