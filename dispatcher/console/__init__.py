"""The web pages for operators: a view of what the commands show."""
