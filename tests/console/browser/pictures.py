"""Pictures of pages for people and for the docs: PNGs with a palette, a fraction of the size of the browser's own, and with a text."""

import base64
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page

from tests.console.browser.pages import HEIGHT, NARROW, WIDE

MAX_HEIGHT = 1_600
"""A longer page is cut off here."""
View = tuple[str, Literal["light", "dark"], int]
VIEWS: tuple[View, ...] = (("light", "light", WIDE), ("dark", "dark", WIDE), ("narrow", "light", NARROW))
TEXT_CHUNK = b"iTXtDescription\0\1\0\0\0"
"""The type, the keyword and the flags of the compressed text in a PNG."""
# Keeps the 256 most frequent colours, rather vivid ones than greys; the others become the nearest of them. The browser decodes the PNG.
PALETTE = """async (png) => {
    const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0))
    const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}))
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d")
    canvas.drawImage(image, 0, 0)
    const rgba = new DataView(canvas.getImageData(0, 0, image.width, image.height).data.buffer)
    const pixels = Array.from({length: image.width * image.height}, (_, n) => rgba.getUint32(4 * n) >>> 8)
    const counts = new Map()
    for (const colour of pixels) counts.set(colour, (counts.get(colour) ?? 0) + 1)
    const channels = (colour) => [colour >> 16, (colour >> 8) & 255, colour & 255]
    const spread = (colour) => Math.max(...channels(colour)) - Math.min(...channels(colour))
    const weights = new Map([...counts].map(([colour, count]) => [colour, count * (1 + spread(colour))]))
    const palette = [...counts.keys()].sort((one, other) => weights.get(other) - weights.get(one)).slice(0, 256)
    const distance = (one, other) => channels(one).reduce((sum, value, n) => sum + (value - channels(other)[n]) ** 2, 0)
    const nearest = (colour) => palette.reduce((best, one) => distance(one, colour) < distance(best, colour) ? one : best)
    const indices = new Map(palette.map((colour, n) => [colour, n]))
    for (const colour of counts.keys()) if (!indices.has(colour)) indices.set(colour, indices.get(nearest(colour)))
    const text = Array.from({length: image.height}, (_, row) =>
        String.fromCharCode(...pixels.slice(row * image.width, (row + 1) * image.width).map((one) => indices.get(one))))
    return [image.width, palette, text.map(btoa)]
}"""


def take(page: Page, path: Path, text: str = "", views: Sequence[View] = VIEWS, max_height: int = MAX_HEIGHT) -> None:
    """Saves the page, with a text, in these views: for `now.png`, as `now-light.png`, `now-dark.png` and `now-narrow.png`."""
    for name, scheme, width in views:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.emulate_media(color_scheme=scheme)
        height = min(max_height, page.evaluate("document.documentElement.scrollHeight"))
        picture = page.screenshot(
            full_page=True, animations="disabled", clip={"x": 0, "y": 0, "width": width, "height": height}
        )
        path.with_name(f"{path.stem}-{name}{path.suffix}").write_bytes(_shrink(page, picture, text))


def text_of(path: Path) -> str:
    """Returns the text that was saved with a picture."""
    picture = path.read_bytes()
    begin = picture.index(TEXT_CHUNK)
    (length,) = struct.unpack(">I", picture[begin - 4 : begin])
    return zlib.decompress(picture[begin + len(TEXT_CHUNK) : begin + 4 + length]).decode()


def _shrink(page: Page, picture: bytes, text: str) -> bytes:
    width, colours, rows = page.evaluate(PALETTE, base64.b64encode(picture).decode())
    pixels = b"".join(b"\0" + base64.b64decode(row) for row in rows)  # \0: the row is not filtered
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), 8, 3, 0, 0, 0)),
            _chunk(TEXT_CHUNK[:4], TEXT_CHUNK[4:] + zlib.compress(text.encode(), 9)),
            _chunk(b"PLTE", b"".join(colour.to_bytes(3, "big") for colour in colours)),
            _chunk(b"IDAT", zlib.compress(pixels, 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
