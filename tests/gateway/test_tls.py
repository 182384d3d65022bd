"""TLS for clients: the same HTTP within, and the same bounds on whoever connects."""

import contextlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest

from gateway import tls
from gateway.config import Config, ConfigError
from gateway.limits import Limits
from tests.gateway import certificates, edge, test_abuse, test_cut, test_http, test_timeouts
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import TIMEOUT_S, Connection


def secure(folder: Path, limits: Limits | None = None) -> Rig:
    files = certificates.write(folder)
    rig = Rig(folder, limits, **files)
    rig.tls = certificates.client(files)
    rig.key()
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    return rig


@pytest.fixture(scope="module")
def made() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = secure(Path(folder), Limits(linger_s=0.5))  # TLS has no half-closed connections
        yield rig
        rig.stop()


@pytest.fixture
def tiny(made: Rig) -> Rig:
    made.spool.opened.clear()
    made.spool.closed.clear()
    made.engines[0].seen.clear()
    return made


@pytest.fixture(scope="module")
def hasty() -> Iterator[Rig]:
    limits = Limits(header_s=0.4, body_s=0.4, idle_s=0.4, write_s=1.0, linger_s=0.3, engine_s=2.0)
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = secure(Path(folder), limits)
        yield rig
        rig.stop()


# --- the same as without ----------------------------------------------------------------
@pytest.mark.parametrize(
    "test",
    [
        test_http.test_a_connection_serves_one_request_after_another,
        test_http.test_pipelined_requests_are_answered_in_order,
        test_http.test_a_chunked_body_is_read,
        test_http.test_a_client_that_waits_for_100_gets_it,
        test_http.test_http_1_0_gets_no_chunks,
        test_http.test_a_20_mb_body_is_refused_and_the_client_reads_why,
        test_http.test_connection_close_is_obeyed,
        test_http.test_bytes_come_one_by_one,
        test_http.test_a_half_sent_request_behind_does_not_hide_that_the_client_left,
        test_abuse.test_who_asks_far_ahead_is_answered_in_order_and_then_closed,
        test_abuse.test_who_asks_on_and_reads_nothing_is_not_answered_on,
        test_cut.test_an_engine_that_dies_in_a_stream,
    ],
)
def test_within_tls(tiny: Rig, test: Callable[[Rig], None]) -> None:
    test(tiny)


@pytest.mark.parametrize(
    "test",
    [
        test_timeouts.test_a_slow_head_is_given_up,
        test_timeouts.test_an_idle_connection_is_closed_without_a_word,
        test_timeouts.test_a_client_that_never_reads_is_cut_and_pays_for_what_left,
        test_abuse.test_who_never_reads_holds_the_engine_back_and_is_cut,
        test_abuse.test_who_reads_slowly_gets_everything,
    ],
)
def test_within_tls_in_time(hasty: Rig, test: Callable[[Rig], None]) -> None:
    test(hasty)


def test_httpx_streams(tiny: Rig) -> None:
    assert tiny.tls is not None
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=5"}
    with (
        httpx.Client(verify=tiny.tls) as client,
        client.stream(
            "POST",
            f"https://127.0.0.1:{tiny.port}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {KEY}"},
        ) as answer,
    ):
        lines = [line for line in answer.iter_lines() if line]
    assert answer.http_version == "HTTP/1.1"
    assert lines[-1] == "data: [DONE]"


def test_openai_asks_and_streams(tiny: Rig) -> None:
    assert tiny.tls is not None
    with openai.OpenAI(
        base_url=f"https://127.0.0.1:{tiny.port}/v1",
        api_key=KEY,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=tiny.tls),
    ) as client:
        whole = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], user="tokens=3"
        )
        assert whole.choices[0].message.content == "toktoktok"
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], user="tokens=5", stream=True
        )
        assert len([chunk for chunk in stream if chunk.choices]) == 5


# --- TLS itself -------------------------------------------------------------------------
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(tiny: Rig, version: ssl.TLSVersion) -> None:
    assert tiny.tls is not None
    context = certificates.client({"tls_certificate": tiny.folder / "tls.pem"})
    context.minimum_version = context.maximum_version = version
    with Connection(tiny.port, context) as connection:
        assert isinstance(connection._socket, ssl.SSLSocket)
        assert connection._socket.version() == version.name.replace("_", ".")
        connection.get("/v1/models", key=KEY)
        assert connection.response().status == 200


def test_older_versions_are_refused(tiny: Rig) -> None:
    context = certificates.client({"tls_certificate": tiny.folder / "tls.pem"})
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(tiny.port, context)


def handshake(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    try:
        return context.wrap_socket(raw, server_hostname="127.0.0.1")
    except BaseException:
        raw.close()
        raise


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
def test_only_http_1_1_is_negotiated(tiny: Rig, offered: list[str], chosen: str | None) -> None:
    context = certificates.client({"tls_certificate": tiny.folder / "tls.pem"})
    if offered:
        context.set_alpn_protocols(offered)
    with handshake(tiny.port, context) as connection:
        assert connection.selected_alpn_protocol() == chosen
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "said",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\0" * 5000,
        b"\x16\x03\x01\x40\x00" + b"\1" * 20000,
    ],
)
def test_what_is_no_tls_gets_no_http(tiny: Rig, said: bytes) -> None:
    with (
        edge.watched_faults() as faults,
        socket.create_connection(("127.0.0.1", tiny.port), TIMEOUT_S) as raw,
    ):
        heard = b""
        with contextlib.suppress(ConnectionError):
            raw.sendall(said)
            while data := raw.recv(4096):
                heard += data
        assert b"HTTP" not in heard
        assert not faults
    assert tiny.engines[0].seen == []


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_has_its_time(hasty: Rig, said: bytes) -> None:
    with (
        edge.watched_faults() as faults,
        socket.create_connection(("127.0.0.1", hasty.port), TIMEOUT_S) as raw,
    ):
        raw.sendall(said)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
        assert time.monotonic() - began < TIMEOUT_S / 2
        assert not faults


# --- settings ---------------------------------------------------------------------------
def config(folder: Path, **files: Path) -> Config:
    plain = Config(
        database_url="postgresql://x", pepper=b"x", folder=folder, gateway_id="gw", region="r"
    )
    if not files:
        return plain
    return replace(plain, tls_certificate=files["tls_certificate"], tls_key=files["tls_key"])


def test_without_a_certificate_there_is_no_tls(tmp_path: Path) -> None:
    assert tls.for_clients(config(tmp_path)) is None


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    assert tls.for_clients(config(tmp_path, **files)) is not None
    files["tls_key"].write_text("nonsense")
    with pytest.raises(ConfigError, match=r"STOA_GATEWAY_TLS_KEY=.*tls\.key"):
        tls.for_clients(config(tmp_path, **files))
    files = certificates.write(tmp_path, password=b"secret")
    with pytest.raises(ConfigError, match="STOA_GATEWAY_TLS_KEY"):  # and nobody is asked for it
        tls.for_clients(config(tmp_path, **files))


def test_both_or_none(tmp_path: Path) -> None:
    environ = {
        "STOA_GATEWAY_DATABASE_URL": "postgresql://x",
        "STOA_KEY_PEPPER": "x",
        "STOA_GATEWAY_DIR": str(tmp_path),
        "STOA_REGION": "r",
        "STOA_GATEWAY_TLS_CERTIFICATE": str(certificates.write(tmp_path)["tls_certificate"]),
    }
    with pytest.raises(ConfigError, match="both or none"):
        Config.from_env(environ)
    environ["STOA_GATEWAY_TLS_KEY"] = str(tmp_path / "tls.key")
    assert Config.from_env(environ).tls_key == tmp_path / "tls.key"
