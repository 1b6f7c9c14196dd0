"""The changes that are made to a small file."""

from pathlib import Path

from tests.mutation.mutants import mutants_of

CODE = """
@dataclass(frozen=True)
async def settle(answers: list[int] | None, *, now: int) -> bool:
    if answers is not None and now >= -1:
        report(answers)
        await record(answers[0] + now)
        answers.clear()
    return not now
"""


def test_each_change_is_made_alone(tmp_path: Path) -> None:
    path = tmp_path / "settle.py"
    path.write_text(CODE)
    changed = {(mutant.line, _changed_line(mutant.applied(CODE))) for mutant in mutants_of(path)}
    assert changed == {
        (4, "if not answers is not None and now >= -1:"),
        (4, "if answers is not None or now >= -1:"),
        (4, "if answers is None and now >= -1:"),
        (4, "if answers is not None and now > -1:"),
        (4, "if answers is not None and now < -1:"),
        (4, "if answers is not None and now >= +1:"),
        (5, "pass"),
        (6, "pass"),
        (6, "await record(answers[0] - now)"),
        (7, "pass"),
        (8, "return now"),
    }


def _changed_line(changed: str) -> str:
    (line,) = (new for old, new in zip(CODE.splitlines(), changed.splitlines(), strict=True) if old != new)
    return " ".join(line.split())
