"""The judge of the cluster tests: each figure that could hide a lost change is seen to count one."""

from tests.clusters.figures import (
    Disturbance,
    find_lost,
    find_repeated,
    find_stranded,
    find_unexplained,
    longest_gap,
)
from tests.clusters.partner import Commit
from tests.clusters.receiver import Request


def request(resource: str, arrived_at: float, mark: int) -> Request:
    """A request whose mark is that of the event it announces."""
    return Request(resource, arrived_at, mark, announced=mark)


ACCEPTED = [request("db_1", 1.0, 1), request("db_1", 5.0, 2), request("db_2", 6.0, 3)]


def test_a_mark_that_nobody_has_read_is_lost() -> None:
    assert find_lost([("db_1", 2), ("db_2", 3)], ACCEPTED) == []
    assert find_lost([("db_1", 4), ("db_2", 3)], ACCEPTED) == ["db_1"]
    assert find_lost([("db_2", 2)], ACCEPTED) == ["db_2"]  # read, but of another resource
    assert find_lost([("db_3", 0)], ACCEPTED) == []  # never changed


def test_a_commit_is_stranded_if_the_next_request_comes_late() -> None:
    late = [*ACCEPTED, request("db_1", 31.0, 4)]
    stranded = [(Commit(4, "db_1", 20.0), 31.0)]
    assert find_stranded([Commit(2, "db_1", 4.0)], ACCEPTED, []) == []
    assert find_stranded([Commit(4, "db_1", 20.0)], late, []) == stranded
    assert find_stranded([Commit(4, "db_1", 20.0)], late, [Disturbance("killed", 19.0, 22.0)]) == []
    assert find_stranded([Commit(4, "db_1", 20.0)], late, [Disturbance("killed", 10.0, 19.0)]) == stranded
    assert find_stranded([Commit(4, "db_1", 20.0)], late, [Disturbance("killed", 19.0, 20.5)]) == stranded


def test_a_commit_after_the_last_request_is_left_to_the_search_for_lost_ones() -> None:
    assert find_stranded([Commit(4, "db_1", 20.0)], ACCEPTED, []) == []


def test_reading_a_mark_again_is_repeated() -> None:
    again = request("db_1", 9.0, 2)
    assert find_repeated(ACCEPTED) == []
    assert find_repeated([again, *ACCEPTED]) == [(ACCEPTED[1], again)]


def test_a_repeated_request_is_explained_by_a_newer_event_or_a_disturbance() -> None:
    first, again = request("db_1", 5.0, 2), request("db_1", 9.0, 2)
    assert find_unexplained([(first, again)], []) == [(first, again)]
    assert find_unexplained([(first._replace(announced=1), again)], []) == []
    assert find_unexplained([(first, again)], [Disturbance("killed", 4.0, 6.0)]) == []
    assert find_unexplained([(first, again)], [Disturbance("killed", 8.0, 12.0)]) == []
    assert find_unexplained([(first, again)], [Disturbance("killed", 1.0, 4.0)]) == [(first, again)]


def test_the_longest_gap() -> None:
    assert longest_gap(reversed(ACCEPTED)) == 4.0
    assert longest_gap([]) == 0.0
