"""Which modules of a model a checkpoint's patterns mean, in time that the model bounds.

Whoever uploads a config.json wrote its patterns: Python's own `re` would try some for years. All
are one automaton here, whose states are made as names need them; each letter of a name is looked
at once. What such an automaton cannot say (looking around, back-references) is refused.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from controlplane.placement.refusals import Refusal

MOST_STATES = 20_000
MOST_STEPS = 1_000_000  # less than a second; what checkpoints have takes a thousandth
_DEPTH = 50
_PREFIX = re.compile(r"^(model\.|language_model\.)+")
_COUNT = re.compile(r"\{(\d{1,4})(,)?(\d{1,4})?\}")
_ONE = {"d": r"\d", "w": r"\w", "s": r"\s", "D": r"\D", "W": r"\W", "S": r"\S"}
_BEGIN, _END = "^", "$"


@dataclass
class _State:
    """Where to go on `letter` (a class of one character), where without, or where at an edge."""

    letter: re.Pattern[str] | None = None
    edge: str = ""
    onward: list[int] = field(default_factory=list)


class Patterns:
    """`names`: modules by name, with `*` for anything, or regular expressions after `re:`.

    Raises `Refusal` for an expression that is none, or that takes too much.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._plain: set[str] = set()
        self._states: list[_State] = []
        self._steps = 0
        self._met: dict[str, bool] = {}
        self._moves: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._last = self._new()
        self._first = self._new()
        for name in names:
            self._add(name)
        self._begun = self._closure({self._first}, at=_BEGIN)

    def mean(self, module: str) -> bool:
        """Whether some pattern means this module, whatever the model is wrapped in."""
        if module not in self._met:
            self._met[module] = self._named(module) or self._found(f"model.{module}")
        return self._met[module]

    def _named(self, module: str) -> bool:
        """By its own name, or that of one of its parts at either end."""
        dots = [at for at, mark in enumerate(module) if mark == "."]
        ends = (module[:at] for at in dots), (module[at + 1 :] for at in dots)
        return module in self._plain or any(end in self._plain for each in ends for end in each)

    def _found(self, text: str) -> bool:
        here = self._begun
        for letter in text:
            if self._last in here:
                return True
            key = (here, letter)
            if key not in self._moves:
                self._moves[key] = self._closure({*self._moved(here, letter), self._first})
            here = self._moves[key]
        return self._last in here or self._last in self._closure(here, at=_END)

    def _moved(self, here: frozenset[int], letter: str) -> Iterator[int]:
        self._pay(len(here))
        for each in here:
            state = self._states[each]
            if state.letter is not None and state.letter.fullmatch(letter):
                yield from state.onward

    def _closure(self, some: Iterable[int], at: str = "") -> frozenset[int]:
        """All that is reached without a letter; `at`: the edge of the text that this is."""
        found, waiting = set(some), list(some)
        while waiting:
            state = self._states[waiting.pop()]
            self._pay(1 + len(state.onward))
            if state.letter is None and state.edge in ("", at):
                new = [each for each in state.onward if each not in found]
                found.update(new)
                waiting += new
        return frozenset(found)

    def _pay(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise Refusal("fewer or simpler patterns of modules in quantization_config")

    def _new(self, letter: re.Pattern[str] | None = None, edge: str = "") -> int:
        if len(self._states) >= MOST_STATES:
            raise Refusal("fewer or simpler patterns of modules in quantization_config")
        self._states.append(_State(letter, edge))
        return len(self._states) - 1

    def _add(self, name: str) -> None:
        if name.startswith("re:"):
            said = name[3:]
        else:
            plain = _PREFIX.sub("", name)
            if "*" not in plain:
                self._plain.add(plain)
                return
            spread = ".*".join(re.escape(part) for part in plain.split("*"))
            said = rf"^model\.(.*\.)?{spread}(\..*)?$"
        begin, end = _Reader(said, self).read()
        self._states[self._first].onward.append(begin)
        self._states[end].onward.append(self._last)

    # What a reader builds with: each part has a state where it begins and one where it has ended.

    def one(self, letter: str = "", edge: str = "") -> tuple[int, int]:
        begin, end = self._new(re.compile(letter, re.DOTALL) if letter else None, edge), self._new()
        self._states[begin].onward.append(end)
        return begin, end

    def after(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        self._states[one[1]].onward.append(other[0])
        return one[0], other[1]

    def either(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        begin, end = self._new(), self._new()
        self._states[begin].onward += [one[0], other[0]]
        for each in (one, other):
            self._states[each[1]].onward.append(end)
        return begin, end

    def again(self, one: tuple[int, int]) -> tuple[int, int]:
        """Any number of times, none among them."""
        begin, end = self._new(), self._new()
        self._states[begin].onward += [one[0], end]
        self._states[one[1]].onward += [one[0], end]
        return begin, end


class _Reader:
    """One regular expression, as far as an automaton can say it."""

    def __init__(self, text: str, into: Patterns) -> None:
        self._text, self._at, self._into = text, 0, into

    def read(self) -> tuple[int, int]:
        found = self._choice(0)
        if self._at < len(self._text):
            raise self._refused()
        return found

    def _refused(self) -> Refusal:
        return Refusal(f"a pattern of modules that is understood, not {self._text[:60]!r}")

    def _choice(self, depth: int) -> tuple[int, int]:
        if depth > _DEPTH:
            raise self._refused()
        found = self._row(depth)
        while self._take("|"):
            found = self._into.either(found, self._row(depth))
        return found

    def _row(self, depth: int) -> tuple[int, int]:
        found = self._into.one()
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            found = self._into.after(found, self._repeated(depth))
        return found

    def _repeated(self, depth: int) -> tuple[int, int]:
        """An atom, read anew for each copy that a count asks for."""
        begin = self._at
        found = self._atom(depth)
        least, most = self._count()
        end = self._at
        if (least, most) == (1, 1):
            return found
        row = self._into.one()
        for number in range(max(least, most or 0)):
            copy = self._copy(begin, depth)
            if number >= least:
                copy = self._into.either(copy, self._into.one())
            row = self._into.after(row, copy)
        if most is None:
            row = self._into.after(row, self._into.again(self._copy(begin, depth)))
        self._at = end
        return row

    def _copy(self, begin: int, depth: int) -> tuple[int, int]:
        self._at = begin
        return self._atom(depth)

    def _count(self) -> tuple[int, int | None]:
        """How often at least and at most; None: without end. Greed changes nothing here."""
        found: tuple[int, int | None] = (1, 1)
        if self._take("*"):
            found = (0, None)
        elif self._take("+"):
            found = (1, None)
        elif self._take("?"):
            return self._greedy((0, 1))
        elif stated := _COUNT.match(self._text, self._at):
            self._at = stated.end()
            least, comma, most = stated.groups()
            found = (int(least), int(most) if most else None if comma else int(least))
        else:
            return found
        return self._greedy(found)

    def _greedy(self, found: tuple[int, int | None]) -> tuple[int, int | None]:
        self._take("?")
        if self._at < len(self._text) and self._text[self._at] in "*+?":
            raise self._refused()  # possessive, or a repeat of a repeat
        if found[1] is not None and found[1] < found[0]:
            raise self._refused()
        return found

    def _atom(self, depth: int) -> tuple[int, int]:
        mark = self._text[self._at]
        self._at += 1
        if mark == "(":
            if self._take("?") and not self._take(":"):
                raise self._refused()
            found = self._choice(depth + 1)
            if not self._take(")"):
                raise self._refused()
            return found
        if mark in (_BEGIN, _END):
            return self._into.one(edge=mark)
        if mark == "[":
            return self._into.one(self._class())
        if mark == "\\":
            return self._into.one(self._escaped())
        if mark in "*+?{":
            raise self._refused()
        return self._into.one("." if mark == "." else re.escape(mark))

    def _escaped(self) -> str:
        mark = self._text[self._at : self._at + 1]
        self._at += 1
        if mark in _ONE:
            return _ONE[mark]
        if not mark or mark.isalnum():  # edges of words, back-references, code points
            raise self._refused()
        return re.escape(mark)

    def _class(self) -> str:
        """`[a-z_]`: of one letter, so that `re` may have it."""
        begin = self._at - 1
        self._take("^")
        self._take("]")
        while self._at < len(self._text) and self._text[self._at] != "]":
            self._at += 2 if self._text[self._at] == "\\" else 1
        if not self._take("]"):
            raise self._refused()
        said = self._text[begin : self._at]
        try:
            re.compile(said)
        except re.error:
            raise self._refused() from None
        return said

    def _take(self, mark: str) -> bool:
        there = self._text[self._at : self._at + 1] == mark
        self._at += there
        return there
