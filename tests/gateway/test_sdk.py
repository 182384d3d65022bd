"""The official OpenAI client against the gateway: nothing changes but base_url and the key."""

from collections.abc import Iterator

import openai
import pytest

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
