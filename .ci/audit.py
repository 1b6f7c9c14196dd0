"""Looks for known vulnerabilities in the locked packages: pip-audit, with the data of osv.dev or of the address in OSV_URL.

Exit code 1: there is one. Where the data cannot be reached it says NOT AUDITED and ends with 0.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
# It contains the packages of the other lock files too.
LOCK = "requirements-dev.txt"
PROBE = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "1.0"}
PROBE_SECONDS = 20


def answers(url: str) -> bool:
    """Whether a query gets a JSON answer from there."""
    try:
        with urllib.request.urlopen(url, json.dumps(PROBE).encode(), PROBE_SECONDS) as answer:  # noqa: S310 (the caller's own address)
            json.load(answer)
    except (OSError, ValueError):
        return False
    return True


def main() -> int:
    url = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
    if not answers(url):
        sys.stderr.write(
            f"NOT AUDITED: {url} does not answer, so known vulnerabilities in {LOCK} were not looked for\n"
        )
        return 0
    command = [Path(sys.executable).with_name("pip-audit"), "--vulnerability-service", "osv", "--osv-url", url]
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--requirement", LOCK]
    return subprocess.run([*command, *options], cwd=ROOT, check=False).returncode  # noqa: S603 (our own tool)


if __name__ == "__main__":
    sys.exit(main())
