"""Names and texts in the signs that every bank of SEPA takes (EPC217-08)."""

import re
import unicodedata

_SPELLED = str.maketrans(
    {
        **{"Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"},
        **{"Æ": "AE", "æ": "ae", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l", "Đ": "D", "đ": "d"},
        **{"Þ": "Th", "þ": "th", "ð": "d", "Ð": "D", "\u0131": "i", "Œ": "OE", "œ": "oe"},
        **{
            "&": "+",
            "\u2013": "-",
            "\u2014": "-",
            "\u2019": "'",
            "\u2018": "'",
            "\u201e": "",
            "\u201c": "",
            "\u201d": "",
        },
    }
)


def latin(text: str, most: int) -> str:
    """The text in Latin letters without accents, other signs as dots, cut at `most`.

    Raises ValueError where hardly anything would be left, as of a name in Greek or Cyrillic.
    """
    spelled = unicodedata.normalize("NFC", text).translate(_SPELLED)
    plain = "".join(
        sign for sign in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(sign)
    )
    kept = re.sub(r"[^A-Za-z0-9+?/:().,' -]", ".", " ".join(plain.split()))
    letters = [sign for sign in plain if sign.isalnum()]
    if not letters or sum(sign.isascii() for sign in letters) * 2 < len(letters):
        raise ValueError(f"{text!r} has to be given in Latin letters")
    return re.sub("/{2,}", "/", kept)[:most].strip().strip("/")
