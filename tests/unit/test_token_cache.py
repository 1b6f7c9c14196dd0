"""What is kept of the tokens that were looked up, for how long, and who waits for a look-up."""

import asyncio
import gc
from typing import Any

import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable
from dispatcher.credentials.token_cache import Found, TokenCache

GOOD_FOR = 60.0


class Source:
    """Gives another token each time, at once unless `gate` is closed. `now` is the cache's time."""

    def __init__(self, size: int = 100) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = TokenCache(self._find, lambda: self.now, size)

    async def _find(self, installation_id: str) -> Found:
        self.asked.append(installation_id)
        number = len(self.asked)
        try:
            await self.gate.wait()
        finally:
            self.ended.append(installation_id)
        if self.failure is not None:
            raise self.failure
        return Found(SecretStr(f"t{number}"), GOOD_FOR)

    async def get(self, installation_id: str, *, refused: str | None = None) -> str:
        token = await self.cache.get(installation_id, refused=None if refused is None else SecretStr(refused))
        return token.get_secret_value()


async def let_go_on() -> None:
    """Everything that waits for nothing but its turn has it."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def source() -> Source:
    return Source()


async def test_a_token_is_kept_until_its_time_is_over(source: Source) -> None:
    assert not source.cache.has("icfg_1")
    assert await source.get("icfg_1") == "t1"
    source.now = GOOD_FOR - 0.1
    assert (source.cache.has("icfg_1"), await source.get("icfg_1")) == (True, "t1")
    source.now = GOOD_FOR
    assert not source.cache.has("icfg_1")
    assert await source.get("icfg_1") == "t2"
    source.now += GOOD_FOR - 0.1
    assert await source.get("icfg_1") == "t2"


async def test_a_refused_token_is_looked_up_again_and_another_one_is_not(source: Source) -> None:
    await source.get("icfg_1")
    assert await source.get("icfg_1", refused="t1") == "t2"
    assert await source.get("icfg_1", refused="t1") == "t2"
    assert source.asked == ["icfg_1"] * 2


async def test_a_refused_token_is_not_at_hand_while_it_is_looked_up_again(source: Source) -> None:
    """Else requests would begin and keep others from beginning while they wait."""
    await source.get("icfg_1")
    source.gate.clear()
    again = asyncio.create_task(source.get("icfg_1", refused="t1"))
    await let_go_on()
    assert source.asked == ["icfg_1"] * 2
    assert not source.cache.has("icfg_1")
    source.gate.set()
    assert await again == "t2"
    assert source.cache.has("icfg_1")


async def test_a_refused_token_is_given_to_nobody_although_no_other_could_be_found(source: Source) -> None:
    await source.get("icfg_1")
    source.failure = CredentialsUnavailable("later")
    with pytest.raises(CredentialsUnavailable, match="later"):
        await source.get("icfg_1", refused="t1")
    with pytest.raises(CredentialsUnavailable, match="later"):
        await source.get("icfg_1")
    source.failure = None
    assert await source.get("icfg_1") == "t4"


async def test_each_installation_has_a_token_of_its_own_and_one_look_up_for_all_that_wait(source: Source) -> None:
    source.gate.clear()
    waiting = [asyncio.create_task(source.get(one)) for one in ("icfg_1", "icfg_2", "icfg_1", "icfg_2")]
    await let_go_on()
    source.gate.set()
    assert await asyncio.gather(*waiting) == ["t1", "t2", "t1", "t2"]
    assert source.asked == ["icfg_1", "icfg_2"]


async def test_one_that_no_longer_waits_leaves_the_others_their_answer(source: Source) -> None:
    source.gate.clear()
    impatient, patient = (asyncio.create_task(source.get("icfg_1")) for _ in range(2))
    await let_go_on()
    impatient.cancel()
    await asyncio.wait([impatient])
    source.gate.set()
    assert await patient == "t1"
    assert source.asked == ["icfg_1"]


async def test_a_failure_that_nobody_waits_for_any_more_is_no_error_of_the_event_loop(source: Source) -> None:
    """Else a stop would write a traceback to the log."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, error: errors.append(error))
    source.gate.clear()
    source.failure = CredentialsUnavailable("later")
    waiting = asyncio.create_task(source.get("icfg_1"))
    await let_go_on()
    waiting.cancel()
    await asyncio.wait([waiting])
    source.gate.set()
    await let_go_on()
    del waiting  # it holds the look-up
    gc.collect()
    assert (source.ended, errors) == (["icfg_1"], [])


async def test_of_too_many_tokens_the_one_that_was_used_longest_ago_is_forgotten() -> None:
    source = Source(size=2)
    for installation_id in ("icfg_1", "icfg_2", "icfg_1", "icfg_3"):
        await source.get(installation_id)
    assert [source.cache.has(f"icfg_{number}") for number in (1, 2, 3)] == [True, False, True]


async def test_a_token_that_was_looked_up_again_counts_as_used() -> None:
    source = Source(size=2)
    await source.get("icfg_1")
    await source.get("icfg_2")
    await source.get("icfg_1", refused="t1")
    await source.get("icfg_3")
    assert [source.cache.has(f"icfg_{number}") for number in (1, 2, 3)] == [True, False, True]


async def test_at_the_end_look_ups_have_ended_and_who_waits_is_told_why(source: Source) -> None:
    source.gate.clear()
    waiting = asyncio.create_task(source.get("icfg_1"))
    await let_go_on()
    await source.cache.aclose()
    assert source.ended == ["icfg_1"]
    with pytest.raises(CredentialsUnavailable, match="the service is stopping"):
        await waiting
