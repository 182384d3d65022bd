"""What an invoice must say about its VAT, in the words of the law."""

from dataclasses import dataclass

from billing.vat.tables import table


@dataclass(frozen=True)
class Note:
    """`language` is ISO 639-1."""

    language: str
    text: str


def reverse_charge(languages: tuple[str, ...]) -> tuple[Note, ...]:
    """The mention of Art. 226(11a) in each language, and in English, each once.

    A language without an official version of it is given in English.
    """
    words = table("reverse_charge")["words"]
    asked = dict.fromkeys((*languages, "en"))
    return tuple(Note(each, words[each]) for each in asked if words.get(each))


def outside_scope() -> tuple[Note, ...]:
    """No wording is prescribed where no VAT of the Union applies: one sentence says why."""
    return (
        Note("en", "Not subject to VAT: place of supply outside the EU (Art. 44 Dir. 2006/112/EC)"),
    )
