"""What a node is told of an image, and what is never written down of it."""

import msgspec
import pytest

from controlplane.fleet import wire

OLD_SPEC = {
    "replica_id": "rep_1",
    "endpoint_id": "ep_1",
    "organization_id": "org_1",
    "model": "Qwen/Qwen3-0.6B",
    "revision": "",
    "engine": "vllm",
    "engine_args": {},
    "adapters": [],
    "served_name": "ep_1",
    "device_indexes": [0],
    "share_standby": False,
    "start_timeout_s": 20.0,
}


def test_a_spec_from_before_there_were_images_has_none_and_reaches_nothing() -> None:
    spec = msgspec.convert(OLD_SPEC, wire.ReplicaSpec)
    assert spec.image is None
    assert spec.egress == []


def test_an_image_with_nothing_but_a_reference_listens_where_the_documentation_says() -> None:
    image = msgspec.convert({"reference": "registry.example/a/b:1"}, wire.Image)
    assert (image.port, image.readiness_path, image.openai) == (8000, "/health", True)
    assert (image.command, image.env, image.memory_bytes, image.pids) == ([], {}, 0, 0)


def test_an_image_survives_the_wire() -> None:
    image = wire.Image(
        reference="registry.example/a/b@sha256:" + "0" * 64,
        command=["serve", "--port", "9000"],
        env={"MODE": "fast"},
        port=9000,
        readiness_path="/ready",
        openai=False,
        memory_bytes=1 << 34,
        pids=512,
    )
    spec = msgspec.structs.replace(
        msgspec.convert(OLD_SPEC, wire.ReplicaSpec), image=image, egress=["*.example.com:443"]
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=wire.ReplicaSpec) == spec


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_secrets_show_no_value(show: object) -> None:
    login = wire.RegistryLogin(server="registry.example", username="robot", password="hunter2")
    secrets = wire.Secrets(registry=login, env={"API_TOKEN": "topsecret"})
    assert callable(show)
    for shown in (show(secrets), show(login)):
        assert "hunter2" not in shown
        assert "topsecret" not in shown
    assert "API_TOKEN" in show(secrets)
    again = msgspec.json.decode(msgspec.json.encode(secrets), type=wire.Secrets)
    assert again.registry is not None
    assert (again.registry.password, again.env) == ("hunter2", {"API_TOKEN": "topsecret"})
