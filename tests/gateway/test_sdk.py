"""The official OpenAI client against the gateway: nothing changes but base_url and the key."""

import re
from collections.abc import Iterator, Mapping

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from gateway.directory import RateLimits
from tests.gateway.fake_engine import PROMPT_TOKENS
from tests.gateway.rig import KEY, Rig


@pytest.fixture
def client(tiny: Rig) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{tiny.port}/v1", api_key=KEY, max_retries=0
    ) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], user="tokens=3"
    )
    assert answer.choices[0].message.content == "toktoktok"
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        user="tokens=5",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert len([chunk for chunk in chunks if chunk.choices]) == 5
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [5]


def test_a_stream_that_is_left_half_way(tiny: Rig, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        user="tokens=500;delay=0.01",
        stream=True,
    )
    with stream:
        for number, _ in enumerate(stream):
            if number == 4:
                break
    (record,) = tiny.closed()
    tiny.until(lambda: tiny.engines[0].seen[0].aborted)
    assert record.finish == "client_gone"
    assert record.input_tokens == PROMPT_TOKENS
    assert 5 <= record.output_tokens <= tiny.engines[0].seen[0].generated


def test_completions_embeddings_models(client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="a", user="tokens=2")
    assert text.choices[0].text == "toktok"
    assert client.embeddings.create(model="tiny", input="a").usage.prompt_tokens == PROMPT_TOKENS
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny:poet").id == "tiny:poet"


def test_errors_are_the_clients_own_classes(tiny: Rig, client: openai.OpenAI) -> None:
    chat = client.chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        chat.create(model="nothing", messages=[])
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id is not None
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="sk-wrong").models.list()
    assert stranger.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as steering:
        chat.create(model="tiny", messages=[], extra_body={"priority": -1})
    assert steering.value.param == "priority"
    with pytest.raises(openai.BadRequestError) as long:
        chat.create(model="tiny", messages=[], user="error=400")
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="tiny", prompt="x" * 20_000_000)
    assert large.value.status_code == 413
    with pytest.raises(openai.APIError) as dying:
        list(chat.create(model="tiny", messages=[], stream=True, user="tokens=9;die=3"))
    assert dying.value.code == "engine_gone"


def test_the_client_tries_again_by_itself(tiny: Rig) -> None:
    """503 with Retry-After is what the client retries on: a stale key or body is not."""
    tiny.spool.full = True
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{tiny.port}/v1", api_key=KEY, max_retries=0)
    with client, pytest.raises(openai.InternalServerError) as full:
        client.chat.completions.create(model="tiny", messages=[])
    tiny.spool.full = False
    assert full.value.response.headers["retry-after"] == "5"


def refused(rig: Rig, limits: RateLimits) -> Mapping[str, str]:
    """The headers of the SDK's exception for a request beside one of 50 tokens that runs."""
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    rig.key(rate_limits=limits)
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{rig.port}/v1", api_key=KEY, max_retries=0
    ) as client:

        def ask() -> openai.Stream[ChatCompletionChunk]:
            return client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "hi"}],
                user="tokens=50;stall=1",
                max_tokens=50,
                stream=True,
            )

        with ask(), pytest.raises(openai.RateLimitError) as caught:
            ask()
    headers = caught.value.response.headers
    assert caught.value.code == "rate_limit_exceeded"
    # The SDK waits by the first of these.
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)
    return headers


def rates(headers: Mapping[str, str], what: str) -> tuple[str, ...]:
    return tuple(headers[f"x-ratelimit-{each}-{what}"] for each in ("limit", "remaining", "reset"))


def test_a_429_tells_the_limits_as_openai_does(rig: Rig) -> None:
    headers = refused(rig, RateLimits(requests_per_minute=1, output_tokens_per_minute=500))
    assert rates(headers, "requests")[:2] == ("1", "0")
    assert re.fullmatch(r"(59|60)(\.\d+)?s|1m0s", headers["x-ratelimit-reset-requests"])
    limit, remaining, _ = rates(headers, "tokens")
    assert limit == "500" and 450 <= int(remaining) < 500  # what is refused takes nothing


def test_a_429_for_tokens_says_how_many_are_left(rig: Rig) -> None:
    headers = refused(rig, RateLimits(requests_per_minute=9, output_tokens_per_minute=80))
    assert rates(headers, "requests")[:2] == ("9", "8")
    limit, remaining, _ = rates(headers, "tokens")
    assert limit == "80" and 30 <= int(remaining) < 50


def test_a_429_for_requests_at_once_tells_the_limits_too(rig: Rig) -> None:
    headers = refused(rig, RateLimits(requests_per_minute=60, concurrency=1))
    assert rates(headers, "concurrency") == ("1", "0", "1s")
    assert rates(headers, "requests")[:2] == ("60", "59")
