"""What placement does not guess."""


class Refusal(Exception):
    """A prediction that cannot be made. `fact` is what is missing or not known, in a few words."""

    def __init__(self, fact: str) -> None:
        super().__init__(fact)
        self.fact = fact
