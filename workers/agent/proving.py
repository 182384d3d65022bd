"""What an engine must do before its endpoint may say that it has tools or JSON schema. Pure.

The requests are real ones, answered by the model itself:

- a function that must be called, whose arguments must be as its schema says: the chat template
  takes tools, the structured output works, and the answer is a tool call;
- where it is known how the model writes a call, that very text, which the engine's parser must
  find: the parser suits the model (a wrong one leaves a call lying in the text);
- an answer under a JSON schema that must validate.

Arguments and answers are one of two objects, written out in the schema: a grammar of them ends,
whatever the model would rather say.
"""

import json
from collections.abc import Mapping
from typing import Any

from controlplane.fleet import wire

NAME = "stoa_probe"
_OBJECT = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
    "enum": [{"ok": True}, {"ok": False}],
}


def tool(*, strict: bool) -> dict[str, Any]:
    function = {"name": NAME, "description": "Say whether you are there.", "parameters": _OBJECT}
    return {"type": "function", "function": {**function, **({"strict": True} if strict else {})}}


def forced_call(model: str, recipe: wire.Recipe | None) -> dict[str, Any]:
    """A request that must be answered by a call of the function."""
    choice = {"type": "function", "function": {"name": NAME}}
    return _request(model, recipe) | {"tools": [tool(strict=True)], "tool_choice": choice}


def written_call(model: str, recipe: wire.Recipe) -> dict[str, Any]:
    """A request whose answer is a call as the model writes it; the parser must find it."""
    text = recipe.call.replace("NAME", NAME).replace("ARGUMENTS", '{"ok": true}')
    request = _request(model, recipe) | {"tools": [tool(strict=False)], "tool_choice": "auto"}
    return request | {"structured_outputs": {"choice": [text]}}


def under_schema(model: str, recipe: wire.Recipe | None) -> dict[str, Any]:
    schema = {"name": NAME, "schema": _OBJECT, "strict": True}
    return _request(model, recipe) | {
        "response_format": {"type": "json_schema", "json_schema": schema}
    }


def no_call(answer: bytes) -> str | None:
    """None when an answer of status 200 is a well-formed call of the function, else the flaw."""
    choice = _choice(answer)
    calls = _message(choice).get("tool_calls") or []
    if not calls:
        return f"the answer is text and no tool call: {_shown(choice)}"
    try:
        (call,) = calls
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    except (ValueError, KeyError, TypeError):
        return f"the tool call is not well-formed: {json.dumps(calls)[:200]}"
    if name != NAME or not _valid(arguments):
        return f"the tool call is not the one that was asked for: {json.dumps(calls)[:200]}"
    return None


def no_object(answer: bytes) -> str | None:
    """None when an answer of status 200 is what the schema asks for, else the flaw."""
    choice = _choice(answer)
    try:
        found = json.loads(_message(choice).get("content") or "")
    except (ValueError, TypeError, RecursionError):
        return f"the answer is no JSON: {_shown(choice)}"
    return None if _valid(found) else f"the answer is not what its schema says: {_shown(choice)}"


def _request(model: str, recipe: wire.Recipe | None) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Are you there?"}],
        "max_tokens": recipe.probe_tokens if recipe else wire.PROBE_TOKENS,
        "temperature": 0,
    }
    if recipe is not None and recipe.template_kwargs:
        request["chat_template_kwargs"] = recipe.template_kwargs
    return request


def _valid(found: object) -> bool:
    """By the schema; `ok` alone, and a boolean."""
    return isinstance(found, dict) and found.keys() == {"ok"} and isinstance(found["ok"], bool)


def _choice(answer: bytes) -> Mapping[str, Any]:
    try:
        (choice,) = json.loads(answer)["choices"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return choice if isinstance(choice, dict) else {}


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _shown(choice: Mapping[str, Any]) -> str:
    text = repr(str(_message(choice).get("content") or ""))[:120]
    if choice.get("finish_reason") == "length":
        return f"{text} (cut off: it took too many tokens)"
    return text
