"""Messages of the release before, recorded, and its own rules for what it reads.

recorded/1 holds each message as the agents and the control plane of wire version 1 wrote it, and
`schema.json`: what those agents take, which is strict about fields that it does not know.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from controlplane.fleet import older_wire, wire

RECORDED = Path(__file__).with_name("recorded") / "1"
SCHEMA = json.loads((RECORDED / "schema.json").read_text())
MESSAGES = sorted(path for path in RECORDED.glob("*.json") if path.name != "schema.json")
# What the control plane says, and so what an old agent has to read.
ANSWERS: tuple[type[wire.Message], ...] = (
    wire.Credential,
    wire.Desired,
    wire.ReportReply,
    wire.Source,
)


def name(path: Path) -> str:
    return path.name.split(".")[0]


def old_agent_takes(message: str, said: Any) -> None:
    """Raises jsonschema.ValidationError for what an agent of version 1 refuses."""
    jsonschema.validate(said, {"$ref": f"#/$defs/{message}", **SCHEMA})


def filled(of: msgspec.inspect.Type) -> Any:
    """A value that says something in every field, those of fields included."""
    match of:
        case msgspec.inspect.StructType():
            return of.cls(**{field.name: filled(field.type) for field in of.fields})
        case msgspec.inspect.ListType():
            return [filled(of.item_type)]
        case msgspec.inspect.DictType():
            return {"key": filled(of.value_type)}
        case msgspec.inspect.UnionType():
            return filled(next(t for t in of.types if not isinstance(t, msgspec.inspect.NoneType)))
        case msgspec.inspect.EnumType():
            return list(of.cls)[-1]
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 7.5
        case msgspec.inspect.StrType():
            return "said"
    raise NotImplementedError(of)


def with_news(value: Any) -> Any:
    """A message as JSON, with a field that nobody knows yet in it and in each that it holds."""
    if isinstance(value, list):
        return [with_news(one) for one in value]
    if not isinstance(value, wire.Message):
        return msgspec.to_builtins(value)
    said = {field: with_news(getattr(value, field)) for field in value.__struct_fields__}
    return said | {"of_the_next_release": {"a": [1]}}


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_we_read_what_the_release_before_wrote(path: Path) -> None:
    message = msgspec.json.decode(path.read_bytes(), type=getattr(wire, name(path)))
    said = json.loads(path.read_text())
    read = json.loads(msgspec.json.encode(message))
    assert {key: read[key] for key in said}.keys() == said.keys()
    old_agent_takes(name(path), said)  # the recorded rules are those of the recorded messages


@pytest.mark.parametrize("message", ANSWERS, ids=lambda kind: kind.__name__)
def test_the_release_before_reads_what_we_write_for_it(message: type[wire.Message]) -> None:
    whole = filled(msgspec.inspect.type_info(message))
    old_agent_takes(message.__name__, json.loads(older_wire.encode(whole, 1)))
    assert msgspec.json.decode(older_wire.encode(whole, wire.VERSION), type=message) == whole
    assert older_wire.encode(whole, wire.VERSION + 1) == msgspec.json.encode(whole)


def test_the_rules_of_the_release_before_are_strict() -> None:
    with pytest.raises(jsonschema.ValidationError, match="of_the_next_release"):
        old_agent_takes("ReportReply", with_news(wire.ReportReply(lease_s=20.0)))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_what_the_next_release_adds_is_ignored(path: Path) -> None:
    kind: type[wire.Message] = getattr(wire, name(path))
    message = msgspec.json.decode(path.read_bytes(), type=kind)
    assert msgspec.json.decode(json.dumps(with_news(message)), type=kind) == message


def test_answers_use_no_choice_that_the_release_before_lacks() -> None:
    """A new choice of a closed list needs a way to say it to those who do not know it."""
    for kind in (wire.SourceKind, wire.Capability):
        assert issubclass(kind, Enum)
        assert {one.value for one in kind} <= set(SCHEMA["$defs"][kind.__name__]["enum"])


def test_a_wish_that_an_old_agent_would_misread_fails_there_with_a_reason() -> None:
    spec = msgspec.json.decode((RECORDED / "Desired.json").read_bytes(), type=wire.Desired).replicas
    assert spec is not None and spec[0].spec is not None
    plain = spec[0].spec
    other = msgspec.structs.replace(plain, engine="custom")
    for wish, engine_args in (
        (plain, plain.engine_args),
        (other, {older_wire.TOO_OLD: True}),
    ):
        said = json.loads(older_wire.encode(wish, 1))
        assert said["engine_args"] == engine_args
        old_agent_takes("ReplicaSpec", said)
