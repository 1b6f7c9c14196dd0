"""Asks Vercel whether it accepts the tokens, with a request that changes nothing."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dispatcher.inspection.checks.finding import Finding, ok, problem, summarize, warning
from dispatcher.inspection.checks.look_up import Candidate, LookUp
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.vercel.client import Vercel


@dataclass(slots=True)
class _Answer:
    """The same outcome for some installations."""

    outcome: Outcome
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def names(self) -> str:
        return ", ".join(one.installation_id for one in self.candidates)

    @property
    def details(self) -> str:
        """The answer, in parentheses, after a space."""
        return summarize(self.outcome.status, self.outcome.error, self.outcome.vercel_id)


async def check_live(vercel: Vercel, looked_up: Sequence[LookUp]) -> list[Finding]:
    """Reads the account of each installation that has a token."""
    asked = {one.candidate: one.token for one in looked_up if one.token is not None}
    if not asked:
        return [
            warning(
                "live", "Vercel was not asked: no installation with a token is known; `--installation ID` names one"
            )
        ]
    outcomes = await asyncio.gather(*(vercel.read_account(one.installation_id, token) for one, token in asked.items()))
    answers = _group(zip(asked, outcomes, strict=True))
    is_accepted = any(answer.outcome.kind is OutcomeKind.DELIVERED for answer in answers)
    return [_judge(answer, works_for_others=is_accepted) for answer in answers]


def _group(outcomes: Iterable[tuple[Candidate, Outcome]]) -> Sequence[_Answer]:
    """Joins the installations for which Vercel answered the same, but for those that are idle."""
    answers: dict[tuple[object, ...], _Answer] = {}
    for candidate, outcome in outcomes:
        same = (outcome.kind, outcome.status, outcome.error, candidate.is_idle)
        answers.setdefault(same, _Answer(outcome)).candidates.append(candidate)
    return list(answers.values())


def _judge(answer: _Answer, *, works_for_others: bool) -> Finding:
    """A refusal is a warning if the installations are idle, and may be uninstalled, while Vercel accepts other tokens."""
    is_idle = all(one.is_idle for one in answer.candidates)
    refusal = warning if is_idle and works_for_others else problem
    match answer.outcome.kind:
        case OutcomeKind.DELIVERED:
            return ok("live", f"Vercel accepts the token of {answer.names}")
        case OutcomeKind.UNAUTHORIZED:
            what = f"Vercel refuses the token of {answer.names}{answer.details}"
            return refusal("live", f"{what}: store a working token, or purge the installation if it was uninstalled")
        case OutcomeKind.GONE:
            what = f"Vercel does not know {answer.names}{answer.details}"
            return refusal("live", f"{what}: was it uninstalled, or is DISPATCHER_VERCEL_BASE_URL wrong?")
        case OutcomeKind.DISABLED:
            what = f"the configuration of {answer.names} is disabled at Vercel{answer.details}"
            return warning("live", f"{what}: events wait until it is enabled again, or for DISPATCHER_DISABLED_GRACE")
        case OutcomeKind.THROTTLED:
            what = f"Vercel's rate limit left the question about {answer.names} open{answer.details}"
            return warning("live", f"{what}: try again later")
    what = f"Vercel could not be asked about {answer.names}{answer.details}"
    return problem("live", f"{what}: check DISPATCHER_VERCEL_BASE_URL and Vercel's status page")
