"""The web pages for operators: what the commands show and, with `--write`, what they change."""
