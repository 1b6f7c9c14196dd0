"""The constraints accept exactly the rows that can be delivered, for any text, on every database."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.events import INSTALLATION_UPDATED, RESOURCE_UPDATED, parse_event
from dispatcher.outbox.tables import dead_letter, outbox
from tests.contract.databases import on_mysql, on_sqlite
from tests.contract.servers import narrow_database
from tests.contract.steps import count
from tests.contract.test_malformed import collected, drop_constraints, insert

Values = tuple[str | None, ...]
COLUMNS = ("installation_id", "type", "resource_id", "product_id", "billing_plan_id")
INSERT = sa.text(f"INSERT INTO vercel_outbox ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{n}' for n in COLUMNS)})")
READ = sa.text(f"SELECT {', '.join(COLUMNS)} FROM vercel_outbox")
CONTROL = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))}
OTHERS = [
    chr(code) for code in (0xAD, 0x2028, 0x202E, 0xD7FF, 0xE000, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF, 0x1F600, 0x10FFFF)
]


def take(partner: Engine, values: Values) -> Values | None:
    """Inserts the row, rolls back, and returns the values that the database had stored; None if it or its driver refused them."""
    with partner.connect() as connection, connection.begin() as transaction:
        try:
            connection.execute(INSERT, dict(zip(COLUMNS, values, strict=True)))
            return tuple(connection.execute(READ).one())
        except (DBAPIError, UnicodeError):
            return None
        finally:
            transaction.rollback()


def can_be_delivered(values: Values) -> bool:
    """Whether a collection would accept the row as an event."""
    try:
        parse_event(*values)
    except ValueError:
        return False
    return True


@pytest.mark.varies
def test_of_all_characters_only_control_characters_are_refused(partner: Engine) -> None:
    drawn = [*map(chr, range(0x250)), *OTHERS]
    refused = {one for one in drawn if take(partner, ("icfg_1", RESOURCE_UPDATED, f"a{one}b", None, None)) is None}
    assert refused == CONTROL
    assert refused == {
        one for one in drawn if not can_be_delivered(("icfg_1", RESOURCE_UPDATED, f"a{one}b", None, None))
    }


# Any characters, including surrogates, and lengths around those of the columns.
ODD = st.characters(codec=None, exclude_categories=()) | st.sampled_from(sorted(CONTROL)) | st.sampled_from("a- é水")
TEXTS = st.builds(lambda text, times: text * times, st.text(ODD, max_size=3), st.sampled_from([1, 1, 1, 85, 128, 255]))
INSTALLATIONS = st.just("icfg_1") | TEXTS | st.sampled_from(["icfg_1\n", "icfg_1 ", "x" * 128, "x" * 129])
TYPES = st.sampled_from(
    [*[RESOURCE_UPDATED, INSTALLATION_UPDATED] * 3, "resource.update", "Resource.Updated", "resource.updated ", ""]
)
ROWS = st.tuples(INSTALLATIONS, TYPES, *[st.none() | TEXTS] * 3)


@pytest.mark.varies
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS)
def test_exactly_the_rows_that_can_be_delivered_are_accepted(partner: Engine, values: Values) -> None:
    kept = take(partner, values)
    if can_be_delivered(values):
        assert kept == values
    else:
        assert kept is None or can_be_delivered(kept)  # servers truncate spaces beyond the column's length


@on_sqlite
@pytest.mark.parametrize("value", [b"\xff", b"db_1", "db_1\0", "db_1\0\n"])
def test_sqlite_refuses_bytes_and_characters_that_its_functions_do_not_see(
    database: Database, partner: Engine, value: object
) -> None:
    name = "vercel_outbox_resource_id_is_valid"
    with pytest.raises(DBAPIError, match=name), partner.begin() as connection:
        insert(connection, "icfg_1", RESOURCE_UPDATED, value)
    name = "vercel_outbox_installation_id_is_valid"
    with pytest.raises(DBAPIError, match=name), partner.begin() as connection:
        connection.execute(INSERT, dict(zip(COLUMNS, (value, RESOURCE_UPDATED, "db_1", None, None), strict=True)))
    assert count(database, outbox) == 0


SURROGATE = (
    "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', 0x61EDA080)"
)


@on_mysql
def test_half_a_surrogate_is_refused_or_buried_alone(database: Database, partner: Engine) -> None:
    """MariaDB stores it as text. Read as text, it would make the driver fail on the whole result."""
    with pytest.raises(DBAPIError), partner.begin() as connection:
        connection.exec_driver_sql(SURROGATE)
    with partner.begin() as connection:
        drop_constraints(connection)
        insert(connection, "icfg_1", RESOURCE_UPDATED, "before")
        connection.exec_driver_sql(SURROGATE)
        insert(connection, "icfg_1", RESOURCE_UPDATED, "after é")
    assert len(store.collect(database, 100).malformed) == 1
    resources, (reason,) = collected(database)
    assert resources == ["before", "after é"]
    assert "not UTF-8" in reason
    assert count(database, dead_letter) == 1


@pytest.fixture(params=["LATIN1", "WIN1252", "SQL_ASCII"])
def narrow(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL database whose codes from 128 to 159 are control characters, letters, or parts of letters."""
    with narrow_database(postgresql_url, str(request.param)) as url:
        database = open_database(in_utf8(url))
        migration.migrate(database)
        yield database
        database.close()


LETTERS = {"LATIN1": "Ü", "WIN1252": "Ü€", "SQL_ASCII": "Ü€水"}


def test_in_other_encodings_letters_are_no_control_characters(narrow: Database, request: pytest.FixtureRequest) -> None:
    letters = LETTERS[request.node.callspec.params["narrow"]]
    refused = {one for one in (*map(chr, range(1, 0x80)), *letters) if take(narrow.engine, resource(one)) is None}
    assert refused == CONTROL - {"\0"} - {chr(code) for code in range(0x80, 0xA0)}
    assert take(narrow.engine, resource("\x85")) is None or letters == LETTERS["SQL_ASCII"]


def resource(character: str) -> Values:
    return ("icfg_1", RESOURCE_UPDATED, f"a{character}b", None, None)


def in_utf8(url: str) -> str:
    """Returns the URL for a connection in UTF-8, independent of the database's encoding."""
    return make_url(url).update_query_dict({"client_encoding": "UTF8"}).render_as_string(hide_password=False)
