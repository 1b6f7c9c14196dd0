"""Why a database cannot be reached: real drivers, real failures."""

import pytest
from sqlalchemy.exc import DBAPIError

from dispatcher.database.errors import describe_error, summarize
from dispatcher.database.transactions import open_database


@pytest.mark.parametrize(
    ("url", "cause", "message"),
    [
        ("postgresql://me:hush@127.0.0.1:1/app", "connection refused", 'connection to server at "127.0.0.1", port 1'),
        ("mysql://me:hush@127.0.0.1:1/app", "connection refused", "Can't connect to MySQL server on '127.0.0.1'"),
        ("postgresql:///app?host=/no/such/directory", "connection refused", "/no/such/directory"),
        ("postgresql://me:hush@db.invalid/app", "its host name is unknown", "db.invalid"),
        ("mysql://me:hush@db.invalid/app", "its host name is unknown", "db.invalid"),
        ("sqlite:////no/such/directory/dispatcher.db", "its file cannot be opened", "unable to open database file"),
    ],
)
def test_the_cause_is_named_in_general_and_in_the_words_of_the_driver(url: str, cause: str, message: str) -> None:
    database = open_database(url)
    with pytest.raises(DBAPIError) as failed:
        database.now()
    database.close()
    assert summarize(failed.value) == f"the database cannot be reached: {cause}"
    described = describe_error(failed.value)
    assert described.startswith("the database cannot be reached: ")
    assert message in described
    assert "hush" not in described
