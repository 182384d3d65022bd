"""What the control plane says to agents of the release before, in the words that they know.

Those of wire version 1 refuse a message with a field that they do not know, so it is left out. A
wish that means something else without it must not be taken for the simpler one: such a replica
is asked for with an engine argument that no agent allows, so that the node says why it failed.
"""

from typing import Any

import msgspec

from controlplane.fleet import wire

# The fields of version 1, by message: those of answers alone, since agents are read by defaults.
_VERSION_1 = {
    "Credential": "node_id region pool certificate_pem ca_pem expires_at",
    "Desired": "version replicas report_every_s lease_s pulls",
    "DesiredReplica": "replica_id run sleep drain_s spec peers go",
    "ReplicaSpec": "replica_id endpoint_id organization_id model revision engine engine_args"
    " adapters served_name device_indexes share_standby start_timeout_s may_sleep source"
    " capabilities recipes seat",
    "Adapter": "id name path revision",
    "Recipe": "name by_name engine_args capabilities template_has tokens call template"
    " probe_tokens template_kwargs",
    "Seat": "rank size",
    "Peer": "rank node_id relay",
    "Pull": "pull_id source model revision",
    "ReportReply": "lease_s renew",
    "Source": "kind url model project_id revision token access_key_id secret_access_key region"
    " files",
    "SourceFile": "path size_bytes sha256",
}
_KNOWN = {message: tuple(fields.split()) for message, fields in _VERSION_1.items()}
_ENGINES = ("vllm",)  # that an agent of version 1 starts; it never looks which one is meant
TOO_OLD = "needs-a-newer-agent"


def encode(message: wire.Message, spoken: int) -> bytes:
    """`message` as JSON for an agent that speaks version `spoken`."""
    known = message if spoken >= wire.VERSION else _known(message)
    return msgspec.json.encode(known)


def _known(value: Any) -> Any:
    if isinstance(value, list):
        return [_known(one) for one in value]
    if not isinstance(value, wire.Message):
        return value
    # What it never asks for, it is not told: a whole message is new.
    fields = _KNOWN.get(type(value).__name__, value.__struct_fields__)
    said = {field: _known(getattr(value, field)) for field in fields}
    if isinstance(value, wire.ReplicaSpec) and (value.engine not in _ENGINES or _more(value)):
        said["engine_args"] = {TOO_OLD: True}
    return said


def _more(spec: wire.ReplicaSpec) -> bool:
    """Whether it says something in a field that came later."""
    later = (
        field for field in msgspec.structs.fields(spec) if field.name not in _KNOWN["ReplicaSpec"]
    )
    return any(getattr(spec, field.name) != _default(field) for field in later)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    return field.default if factory is msgspec.NODEFAULT else factory()
