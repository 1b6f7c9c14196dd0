"""The `dispatcher` command, also as `python -m dispatcher`. Where only publishing is installed, it says what is missing."""

import sys

MISSING_EXTRA = 2


def main() -> None:
    """Entry point. Without the extra `service`, ends with one line and exit code 2."""
    # structlog would load it with itself, 4 MB in each process; no output of the commands uses it.
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to keep a module from being imported
    try:
        from dispatcher.cli import main as run

        run()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "dispatcher":
            raise
        sys.stderr.write(
            f"dispatcher: the package {missing.name} is not installed: publishing works without it, but the commands need it:"
            " install the wheel with its extra [service], as deploy/README.md shows\n"
        )
        sys.exit(MISSING_EXTRA)


if __name__ == "__main__":
    main()
