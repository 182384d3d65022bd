"""The operations that an engine answers; the same table makes the routes."""

from dataclasses import dataclass
from enum import Enum


class Shape(Enum):
    """How a reply is told in server-sent events."""

    CHAT = "chat"  # OpenAI's chunks, with usage on demand
    RESPONSES = "responses"  # OpenAI's typed events
    MESSAGES = "messages"  # Anthropic's


@dataclass(frozen=True, slots=True)
class Operation:
    """`name` is what usage and metrics call it, `path` what the engine is asked.

    An engine need not have it: its 404 becomes `unsupported_operation`.
    """

    name: str
    path: str
    prompts: tuple[str, ...]  # the fields that hold what the engine reads; checked for media
    aliases: tuple[str, ...] = ()  # other paths that mean the same here
    streams: bool = False
    shape: Shape = Shape.CHAT
    generates: bool = True  # its answer is made of tokens
    counts: bool = True  # tokens are its unit; what only looks into the tokenizer is free
    salted: bool = True  # its engine takes `cache_salt`
    stored: bool = False  # its service keeps replies, unless told not to: we tell it so
    # No JSON of the client's stands behind a reply's usage, so that its end is all we look at.
    usage_last: bool = False
    form: bool = False  # its body is multipart/form-data
    output_limits: tuple[str, ...] = ()  # fields that bound what is generated; the first counts


CHAT = Operation(
    "chat.completions",
    "/v1/chat/completions",
    ("messages",),
    streams=True,
    usage_last=True,
    output_limits=("max_completion_tokens", "max_tokens"),
)
COMPLETIONS = Operation(
    "completions",
    "/v1/completions",
    ("prompt",),
    streams=True,
    usage_last=True,
    output_limits=("max_tokens",),
)
EMBEDDINGS = Operation(
    "embeddings", "/v1/embeddings", ("input", "messages"), generates=False, usage_last=True
)
RESPONSES = Operation(
    "responses",
    "/v1/responses",
    ("input",),
    streams=True,
    shape=Shape.RESPONSES,
    stored=True,
    output_limits=("max_output_tokens",),
)
MESSAGES = Operation(
    "messages",
    "/v1/messages",
    ("messages", "system"),
    streams=True,
    shape=Shape.MESSAGES,
    output_limits=("max_tokens",),
)
COUNT_TOKENS = Operation(
    "messages.count_tokens",
    "/v1/messages/count_tokens",
    ("messages", "system"),
    shape=Shape.MESSAGES,
    generates=False,
    counts=False,
    salted=False,
)
RERANK = Operation(
    "rerank",
    "/rerank",
    ("query", "documents"),
    aliases=("/v1/rerank", "/v2/rerank"),
    generates=False,
)
SCORE = Operation(
    "score",
    "/score",
    ("queries", "documents", "items", "text_1", "text_2", "data_1", "data_2"),
    aliases=("/v1/score",),
    generates=False,
)
TOKENIZE = Operation(
    "tokenize",
    "/tokenize",
    ("prompt", "messages"),
    aliases=("/v1/tokenize",),
    generates=False,
    counts=False,
    salted=False,
)
DETOKENIZE = Operation(
    "detokenize",
    "/detokenize",
    (),
    aliases=("/v1/detokenize",),
    generates=False,
    counts=False,
    salted=False,
)
TRANSCRIPTIONS = Operation(
    "audio.transcriptions",
    "/v1/audio/transcriptions",
    ("prompt",),
    streams=True,
    salted=False,
    form=True,
    output_limits=("max_completion_tokens",),
)
TRANSLATIONS = Operation(
    "audio.translations",
    "/v1/audio/translations",
    ("prompt",),
    streams=True,
    salted=False,
    form=True,
    output_limits=("max_completion_tokens",),
)

# An image's own API, of which nothing is known: raw.py. No path leads to it but an endpoint's own.
RAW = Operation("proxy", "/", (), generates=False, counts=False, salted=False)

ALL = (
    CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES, COUNT_TOKENS, RERANK, SCORE, TOKENIZE,
    DETOKENIZE, TRANSCRIPTIONS, TRANSLATIONS,
)  # fmt: skip

BY_PATH = {path: one for one in ALL for path in (one.path, *one.aliases)}
