"""HTML pages as error bodies, including pages made to be expensive to read."""

import pytest

from dispatcher.vercel.error_body import read_error_body

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html><head><title>Down</title></head><body>Come again", "an HTML page: Down"),
        ("<html><head><title> Down <body>Come again", "an HTML page: Down"),
        ("<html><HEAD><style>p {}</style><body class=x>Come again", "an HTML page"),
        ("<html>Come<!-- not <b>this --> again<script>nor();</script >!", "an HTML page"),
        ("<html>Come again<!-- not this", "an HTML page"),
        ("<html>Come again<script>nor('this')", "an HTML page"),
        ("<html><header>Come</header> again", "an HTML page"),
        ("<html><title>Down<b>", "an HTML page: Down"),
        ("\n<!DOCTYPE html>\n<TITLE lang=en>Gone &amp; lost</TITLE>", "an HTML page: Gone & lost"),
        ("<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-'><html><title/>", "an HTML page"),
        ("<?xml version='1.0'?><Error>SlowDown</Error>", "<?xml version='1.0'?><Error>SlowDown</Error>"),
        ("<html><title>\N{REPLACEMENT CHARACTER}\0" + "\0" * 40, None),
    ],
)
def test_a_page_is_described_by_its_title(page: str, message: str | None) -> None:
    assert read_error_body(page.encode()).message == message


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<!-->", "<script>", "<style ", "<head>", "<title>", "<title", "</script ", "<", "&", "<body", "-->"],
)
def test_a_page_is_read_in_linear_time(piece: str) -> None:
    """A search for the end of each tag would take hours on a page of this size, and exceed the time limit of the test."""
    read_error_body(("<html>" + piece * (MEGABYTE // len(piece))).encode())
