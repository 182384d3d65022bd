"""Anthropic's SDK, LangChain and LlamaIndex: one line of JSON for each call.

Runs in the environment of the clients. Arguments: the gateway's URL, key, model.
"""

import json
import sys
from typing import Any

import anthropic
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

URL, KEY, MODEL = sys.argv[1:4]
TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def say(name: str, **result: Any) -> None:
    print(json.dumps({"name": name, **result}), flush=True)


def messages() -> None:
    client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    hello = {"role": "user", "content": "Hello there"}
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 12, "messages": [hello]}
    asked["extra_body"] = {"temperature": 0}
    answer = client.messages.with_raw_response.create(**asked)
    message = answer.parse()
    (block,) = message.content
    used = message.usage.model_dump()
    id = answer.headers["x-request-id"]
    say(
        "messages",
        text=block.text,
        model=message.model,
        usage=used,
        id=id,
        sdk_id=message._request_id,
    )
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        used = stream.get_final_message().usage.model_dump()
        say("messages_stream", text=text, usage=used, id=stream.response.headers["x-request-id"])
    answer = client.messages.with_raw_response.create(**{**asked, "max_tokens": 1}, tools=[TOOL])
    used = answer.parse().usage.model_dump()
    say("messages_tools", usage=used, id=answer.headers["x-request-id"])
    counted = client.messages.count_tokens(model=MODEL, messages=[hello])
    say("count_tokens", tokens=counted.input_tokens)
    try:
        client.messages.create(**{**asked, "model": "nothing"})
    except anthropic.NotFoundError as error:
        say("messages_unknown", body=error.body)
    try:
        anthropic.Anthropic(base_url=URL, api_key="sk-no").messages.create(**asked)
    except anthropic.AuthenticationError as error:
        say("messages_stranger", body=error.body)


def langchain() -> None:
    chat = ChatOpenAI(
        base_url=f"{URL}/v1", api_key=KEY, model=MODEL, temperature=0, max_tokens=12, max_retries=0,
        stream_usage=True, include_response_headers=True,
    )  # fmt: skip
    answer = chat.invoke("Hello there")
    id = answer.response_metadata["headers"]["x-request-id"]
    say("langchain", text=answer.content, usage=answer.usage_metadata, id=id)
    whole: Any = None
    for chunk in chat.stream("Hello there"):
        whole = chunk if whole is None else whole + chunk
    id = whole.response_metadata["headers"]["x-request-id"]
    say("langchain_stream", text=whole.content, usage=whole.usage_metadata, id=id)
    responses = ChatOpenAI(
        base_url=f"{URL}/v1", api_key=KEY, model=MODEL, temperature=0, max_tokens=12, max_retries=0,
        use_responses_api=True, include_response_headers=True,
    )  # fmt: skip
    answer = responses.invoke("Hello there")
    assert isinstance(answer, AIMessage)
    id = answer.response_metadata["headers"]["x-request-id"]
    say("langchain_responses", text=answer.text, usage=answer.usage_metadata, id=id)


def llama_index() -> None:
    llm = OpenAILike(
        model=MODEL, api_base=f"{URL}/v1", api_key=KEY, is_chat_model=True, temperature=0,
        max_tokens=12, max_retries=0, context_window=2048,
    )  # fmt: skip
    hello = [ChatMessage(role="user", content="Hello there")]
    answer = llm.chat(hello)
    used = answer.raw.usage.model_dump()
    say("llama_index", text=answer.message.content, usage=used)
    *_, last = llm.stream_chat(hello)
    say("llama_index_stream", text=last.message.content)
    plain = OpenAILike(
        model=MODEL, api_base=f"{URL}/v1", api_key=KEY, is_chat_model=False, temperature=0,
        max_tokens=9, max_retries=0, context_window=2048,
    )  # fmt: skip
    say("llama_index_completions", text=plain.complete("import os").text)


messages()
langchain()
llama_index()
