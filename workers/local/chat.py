"""The first answer: what a developer's own program would do, with OpenAI's SDK."""

import time
from dataclasses import dataclass

QUESTION = "Say hello to the Stoa in one short sentence."


@dataclass(frozen=True)
class Answer:
    text: str
    request_id: str
    input_tokens: int
    output_tokens: int
    first_token_s: float
    total_s: float


def ask(gateway_url: str, api_key: str, endpoint: str, *, timeout_s: float = 300) -> Answer:
    """One streamed chat completion; raises openai.APIError with the gateway's own words."""
    import openai  # only now: half a second in which the engine's start is under way already

    client = openai.OpenAI(base_url=f"{gateway_url}/v1", api_key=api_key, timeout=timeout_s)
    began = time.monotonic()
    first = 0.0
    words: list[str] = []
    request_id = ""
    usage = None
    with client:
        raw = client.chat.completions.with_raw_response.create(
            model=endpoint,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=32,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        request_id = raw.headers.get("x-request-id", "")
        for chunk in raw.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.monotonic()
                words.append(chunk.choices[0].delta.content)
            usage = chunk.usage or usage
    ended = time.monotonic()
    return Answer(
        text="".join(words),
        request_id=request_id,
        input_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else 0,
        first_token_s=(first or ended) - began,
        total_s=ended - began,
    )
