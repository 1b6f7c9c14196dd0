"""`python -m dispatcher`: the `dispatcher` command where its script is not on the path."""

from dispatcher.cli import main

if __name__ == "__main__":
    main()
