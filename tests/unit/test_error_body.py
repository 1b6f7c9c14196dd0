"""What is read of error pages, also of those that were made to be hard to read."""

import pytest

from dispatcher.vercel.error_body import read_error_body

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html><head><title>Down</title></head><body>Come again", "Down: Come again"),
        ("<html><head><title> Down <body>Come again", "Down: Come again"),
        ("<html><HEAD><style>p {}</style><body class=x>Come again", "Come again"),
        ("<html>Come<!-- not <b>this --> again<script>nor();</script >!", "Come  again !"),
        ("<html>Come again<!-- not this", "Come again"),
        ("<html>Come again<script>nor('this')", "Come again"),
        ("<html><header>Come</header> again", "Come  again"),
        ("<html><title>Down<b>", "Down: Down"),
    ],
)
def test_the_words_of_a_page(page: str, message: str) -> None:
    assert read_error_body(page.encode()).message == message


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<!-->", "<script>", "<style ", "<head>", "<title>", "<title", "</script ", "<", "&", "<body", "-->"],
)
def test_a_page_is_read_once_however_it_is_made(piece: str) -> None:
    """Whoever looked for an end behind each beginning would read a page of this size for hours: the test's own limit ends that."""
    read_error_body(("<html>" + piece * (MEGABYTE // len(piece))).encode())
