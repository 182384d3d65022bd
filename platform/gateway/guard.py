"""The context window: how full a request makes it, and a refusal for what can never fit.

What a prompt is in tokens only its engine can say. It is refused here only where the engine is
certain to refuse it too: then it wakes nothing and waits for nobody. Everything else is decided
by a guess that gets better with every answer.
"""

from gateway import sizes
from gateway.errors import ApiError, bad_request
from gateway.loads import Place
from gateway.request import Call
from gateway.sizes import Size
from gateway.usage import Usage

WARN_FROM = 0.8

_NEW = 1 / 16  # the weight of the newest answer
_FIRST_RATIO = 0.3  # tokens in a byte of JSON, until an engine has reported some
_FIRST_OUTPUT = 1024  # tokens of an answer that nobody bounded, likewise
_MARGIN = 1.15
_KEPT = 10_000


class Learned:
    """What the answers of one endpoint's engines were like, the newest weighing most."""

    __slots__ = ("_answers", "_bytes", "_output", "_rate", "_spread", "_tokens", "_usual")

    def __init__(self) -> None:
        self._answers = 0
        self._tokens = self._bytes = 0.0  # of prompts
        self._output = self._spread = 0.0  # tokens of an answer, and around that mean
        self._rate = _FIRST_RATIO * _MARGIN
        self._usual = _FIRST_OUTPUT

    def expected(self, size: Size) -> int:
        """Tokens of the prompts together, rather a little too many than too few."""
        most = size.most
        if size.token_ids:
            return most
        guess = int(size.prompt_bytes * self._rate + (most - size.prompt_bytes) / 8) + 1
        return guess if guess < most else most

    def output_of(self, size: Size) -> int:
        """Tokens that one choice will probably take: few are longer."""
        asked = size.asked
        return self._usual if asked is None or asked > self._usual else asked

    def learn(self, size: Size, used: Usage) -> None:
        new = _NEW if self._answers else 1.0
        self._answers += 1
        if size.prompt_bytes and not size.media and not size.token_ids and used.input:
            self._tokens += new * (used.input - self._tokens)
            self._bytes += new * (size.prompt_bytes - self._bytes)
            self._rate = self._tokens / self._bytes * _MARGIN
        output = used.output / (size.choices * size.prompts)
        distance = abs(output - self._output) if self._answers > 1 else output
        self._output += new * (output - self._output)
        self._spread += new * (distance - self._spread)
        self._usual = int(self._output + 3 * self._spread) + 16

    def place(self, size: Size) -> Place:
        sequences = size.choices * size.prompts
        return Place(self.expected(size), self.output_of(size), sequences)


class Learning:
    """By endpoint; beyond a number, the one known longest is forgotten."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, Learned] = {}

    def of(self, endpoint_id: str) -> Learned:
        found = self._by_endpoint.get(endpoint_id)
        if found is None:
            if len(self._by_endpoint) >= _KEPT:
                del self._by_endpoint[next(iter(self._by_endpoint))]
            found = self._by_endpoint[endpoint_id] = Learned()
        return found


def check(call: Call, window: int | None, size: Size) -> None:
    """Raises 400 with the numbers for what certainly does not fit into the window."""
    if window is None or not call.operation.counts or "truncate_prompt_tokens" in call.fields:
        return
    if size.token_ids >= window + (0 if call.operation.generates else 1):
        raise too_long(call, window, f"{size.token_ids}", size.asked)
    if size.asked is not None and size.asked > window:
        raise too_long(call, window, "", size.asked)
    if size.prompts == 1 and size.prompt_bytes > window * sizes.LONGEST_TOKEN:
        least = sizes.least(call)
        if least > window:
            raise too_long(call, window, f"at least {least}", size.asked)


def too_long(call: Call, window: int, prompt: str, asked: int | None) -> ApiError:
    """In OpenAI's words. `prompt` is how many tokens it has, e.g. "1025" or "at least 1025"."""
    where = call.operation.prompts[0]
    message = f"This model's maximum context length is {window} tokens. However, "
    if prompt and asked is None:
        message += f"your {where} resulted in {prompt} tokens. "
    elif prompt:
        total = _sum(prompt, asked or 0)
        message += (
            f"you requested {total} tokens ({prompt} in the {where}, {asked} in the completion). "
        )
    else:
        message += f"you requested {asked} tokens in the completion alone. "
    message += f"Please reduce the length of the {where}" if prompt else "Please ask for fewer"
    message += " or completion." if prompt and asked is not None else "."
    return bad_request("context_length_exceeded", message, where if prompt else "max_tokens")


def _sum(prompt: str, asked: int) -> str:
    words = prompt.rpartition(" ")
    return f"{words[0]}{words[1]}{int(words[2]) + asked}"


def lines(window: int | None, total: int) -> bytes:
    """Header lines: the share of the window that the conversation fills, a warning when it
    becomes full. `total` are the tokens of a prompt and of one answer to it."""
    if not window:
        return b""
    share = total / window
    if share < WARN_FROM:
        return b"x-stoa-context-usage: %.2f\r\n" % share
    return (
        b"x-stoa-context-usage: %.2f\r\n"
        b"x-stoa-warning: context: %d of %d tokens used; shorten the conversation before it"
        b" no longer fits\r\n"
    ) % (share, total, window)
