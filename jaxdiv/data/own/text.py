"""Text as people's files have it: byte order marks, names in either Unicode form."""

import codecs
import unicodedata

from jaxdiv.errors import InputError


def decoded(data: bytes, what: str) -> str:
    """The text of a file in UTF-8 or, as Excel's "Unicode text", UTF-16; without its byte order mark.

    Raises:
      InputError: in another encoding; `what` names the file.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def composed(name: str) -> str:
    """`name` in Unicode's composed form, in which a name of macOS (e and an accent) is that of the others (é)."""
    return unicodedata.normalize("NFC", printable(name))


def printable(name: str) -> str:
    """A file's name in which what is no text is replaced, so that it can be printed and stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def alike(name: str) -> str:
    """The same for names that only letters' case or spaces tell apart."""
    return " ".join(composed(name).casefold().split())
