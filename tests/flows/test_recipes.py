"""Tools and JSON schema through OpenAI's SDK, on an endpoint that had to prove them first."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.flows.conftest import Made
from tests.flows.stoa import Stoa

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is it in Rome?"}]
# Of one of two objects: a tiny model's noise comes to an end in no other schema.
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "enum": [{"city": "Rome"}, {"city": "Oslo"}],
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": CITY, "strict": True},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture
def mute(stoa: Stoa, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny model without its chat template, and without ChatML's marks."""
    folder = Path(stoa.env["TMPDIR"]) / "mute"
    shutil.copytree(stoa.api.endpoint("hello")["model"], folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        text = (folder / name).read_text().replace("<|im_start|>", "<|start|>")
        known = json.loads(text)
        known.pop("chat_template", None)
        (folder / name).write_text(json.dumps(known))
    yield str(folder)
    shutil.rmtree(folder)


def condition(endpoint: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [one for one in endpoint["conditions"] if one["type"] == kind]
    return dict(found)


def test_tools_and_schemas_that_were_proved(stoa: Stoa, made: Made) -> None:
    endpoint = made.ready("able", capabilities=["tools", "json_schema"])
    proved = condition(endpoint, "CapabilitiesProved")
    assert proved["message"] == "tools, json_schema; recipe hermes-style"
    (replica,) = endpoint["replicas"]
    assert replica["proof"]["engine_args"]["tool_call_parser"] == "hermes"
    with stoa.client() as sdk:
        forced: Any = {"type": "function", "function": {"name": "weather"}}
        whole = sdk.chat.completions.create(
            model="able", messages=HELLO, tools=[WEATHER], tool_choice=forced, max_tokens=64
        )
        (call,) = whole.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) in CITY["enum"]

        # As the model would write it by itself, in pieces.
        plain: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
        stream = sdk.chat.completions.create(
            model="able",
            messages=HELLO,
            tools=[plain],
            max_tokens=64,
            stream=True,
            extra_body={"structured_outputs": {"choice": [CALL]}},
        )
        name, arguments, finish = "", "", None
        for chunk in stream:
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for delta in choice.delta.tool_calls or []:
                    assert delta.function
                    name += delta.function.name or ""
                    arguments += delta.function.arguments or ""
        assert (name, json.loads(arguments), finish) == ("weather", {"city": "Rome"}, "tool_calls")

        answer = sdk.chat.completions.create(
            model="able",
            messages=HELLO,
            max_tokens=64,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": CITY, "strict": True},
            },
        )
        assert json.loads(answer.choices[0].message.content or "") in CITY["enum"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tool_call_parser": "pythonic"}, "text and no tool call"),
        ({"tool_call_parser": "mistral"}, "--tool-call-parser mistral cannot be used"),
    ],
)
def test_a_wrong_parser_is_no_endpoint(
    stoa: Stoa, made: Made, arguments: dict[str, Any], words: str
) -> None:
    given = {"max_model_len": 2048, "enable_auto_tool_choice": True, **arguments}
    endpoint = made("wrong", engine_args=given, capabilities=["tools"])
    failed = made.await_status(endpoint["id"], "failed")
    assert failed["message"].startswith("tool_probe_failed: ")
    assert words in failed["message"]
    assert condition(failed, "Healthy")["reason"] == "tool_probe_failed"


def test_a_missing_template_is_no_endpoint(stoa: Stoa, made: Made, mute: str) -> None:
    arguments = {
        "max_model_len": 2048,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
    }
    endpoint = made("mute", model=mute, engine_args=arguments, capabilities=["tools"])
    failed = made.await_status(endpoint["id"], "failed")
    assert failed["message"].startswith("tool_probe_failed: ")
    assert "chat template" in failed["message"]
