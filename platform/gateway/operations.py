"""The operations of /v1 that an engine answers; the same table makes the routes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """`name` is what usage and metrics call it. Paths are equal on both sides."""

    name: str
    path: str
    streams: bool
    prompts: tuple[str, ...]  # the fields that hold what the engine reads; checked for media


CHAT = Operation("chat.completions", "/v1/chat/completions", streams=True, prompts=("messages",))
COMPLETIONS = Operation("completions", "/v1/completions", streams=True, prompts=("prompt",))
EMBEDDINGS = Operation("embeddings", "/v1/embeddings", streams=False, prompts=("input", "messages"))

ALL = (CHAT, COMPLETIONS, EMBEDDINGS)
