"""Rules that are one word, or an object with a name and settings of its own: how a message tells which of them it has.

pydantic tells objects apart by a field, and words not at all; a union that it tries in turn would answer a mistake in
one form with the complaints of all.
"""

from collections.abc import Collection

from pydantic import Discriminator

WORD = "word"
"""The tag of the form that is one word."""


def by_name(rule: str, words: Collection[str], names: Collection[str], forms: str) -> Discriminator:
    """Tells the forms of `rule` apart: one of the `words` (tagged `WORD`), or an object with one of the `names`.

    Whoever writes none of them is told `forms`.
    """

    def form_of(value: object) -> str | None:
        if isinstance(value, str):
            return WORD if value in words else None
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        return name if name in names else None

    return Discriminator(form_of, custom_error_type=rule, custom_error_message=forms)
