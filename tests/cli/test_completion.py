"""Shell completion in a real bash."""

import os
import shutil
import subprocess

import pytest

from tests.cli.conftest import COMMAND, Terminal
from tests.conftest import not_tested

ASK = """\
eval "$(dispatcher --show-completion)"
COMP_WORDS=({words}); COMP_CWORD={last}
"$(complete -p dispatcher | sed 's/.* -F \\([^ ]*\\) .*/\\1/')" dispatcher
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def in_bash(dispatcher: Terminal, script: str) -> str:
    """The script's output in bash, which the command recognizes as its parent."""
    bash = shutil.which("bash") or not_tested("there is no bash")
    environ = dispatcher.environ() | {"PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}", "SHELL": bash}
    done = subprocess.run([bash, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def completed(dispatcher: Terminal, *words: str) -> list[str]:
    """The words that bash offers after a Tab at the end of the last word."""
    return in_bash(dispatcher, ASK.format(words=" ".join(repr(word) for word in words), last=len(words) - 1)).split()


def test_the_script_for_bash_is_printed(dispatcher: Terminal) -> None:
    printed = in_bash(dispatcher, 'printf %s "$(dispatcher --show-completion)"')
    assert printed.endswith("dispatcher")
    assert "complete -o default -F" in printed


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("dispatcher", "sta"), ["status"]),
        (("dispatcher", "dead-letters", "rep"), ["replay"]),
        (("dispatcher", "status", "--wa"), ["--watch"]),
        (("dispatcher", "schema", "--dialect", "my"), ["mysql"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    dispatcher: Terminal, words: tuple[str, ...], offered: list[str]
) -> None:
    assert completed(dispatcher, *words) == offered
