"""Text as people save it: UTF-8 or UTF-16 with or without a byte order mark; anything else is refused by its place."""

import codecs

from ldm_scale.data.sources.items import Stored
from ldm_scale.errors import UsageError

# The longer marks first: that of UTF-32 begins as that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class BadText(ValueError):
    """Bytes that are no text; the message says where, and what to do."""


def decode_text(data: bytes) -> str:
    """The text in some bytes: of the encoding that their mark names, or UTF-8.

    Raises:
        BadText: They are another encoding's: a guess would make wrong captions in silence.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
        place = text.find("\0")
        if place < 0:
            return text
        line = text.count("\n", 0, place) + 1
    except UnicodeDecodeError as error:
        place = error.start + len(mark)
        line = body[: error.start].decode(encoding, "replace").count("\n") + 1
    raise BadText(f"line {line}, byte {place}: no {encoding.upper()}; save it as UTF-8 (iconv -f cp1252 -t utf-8, say)")


def read_text(file: Stored) -> str:
    """The text of a file.

    Raises:
        UsageError: It is not UTF-8, nor another encoding that its first bytes name.
    """
    try:
        return decode_text(file.read_bytes())
    except BadText as error:
        raise UsageError(f"{file} {error}") from None
