"""Tests with the same `xdist_group` run in one process. pytest-xdist 3.8 appends the group to the names that its scheduler gets, as in
`test_it.py::test_one@console`, but writes them to an attribute that pytest 9.2 does not read.
"""

from collections.abc import Generator

import pytest
from _pytest.nodeid import NodeId


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None]:
    """Gives the tests these names while pytest-xdist sends them to the scheduler. Reports show the plain names, which can be run again."""
    plain = [item.id for item in session.items]
    for item in session.items:
        item._id = NodeId.parse(vars(item).get("_nodeid", item.nodeid))
    yield
    for item, name in zip(session.items, plain, strict=True):
        item._id = name
