"""The walls, raised around small programs; around a real engine in test_engine.py."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.fleet.wire import Wall
from workers.agent import cli, credential, walls
from workers.agent.launcher import isolation
from workers.agent.launcher.isolation import Isolation
from workers.agent.settings import read

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands out user ids")

INSIDE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import isolation
isolation.enclose(isolation.Isolation.decode(json.loads(sys.argv[2])))
exec(sys.argv[3])
"""


def inside(walled: Isolation, program: str, *arguments: str) -> str:
    """What a program prints behind walls; its complaint, should it fail."""
    folder = str(Path(isolation.__file__).parent)
    command = [sys.executable, "-I", "-c", INSIDE, folder, json.dumps(walled.encode()), program]
    command += arguments
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def interpreter() -> tuple[str, ...]:
    return (sys.executable, sys.base_prefix, sys.prefix)


def test_the_survey_says_what_stands_and_why_the_rest_does_not() -> None:
    found = walls.survey()
    assert Wall.SOCKET in found.can
    assert found.can.isdisjoint(found.missing)
    assert found.can | set(found.missing) == set(Wall)
    assert (found.network == isolation.SHARED) == (Wall.NETWORK in found.missing)


def test_isolation_survives_the_wire() -> None:
    walled = Isolation(uid=200_001, network=isolation.OWN, expose=("/a", "/b"))
    assert Isolation.decode(json.loads(json.dumps(walled.encode()))) == walled


def test_every_engine_gives_up_new_rights_and_core_dumps() -> None:
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE),"
    program += " [l.split()[1] for l in open('/proc/self/status') if l.startswith('NoNewPrivs')])"
    assert inside(Isolation(), program) == "(1, 1) ['1']"


@needs_root
def test_a_uid_of_its_own_has_no_groups_and_no_capabilities() -> None:
    program = "import os; print(os.getresuid(), os.getgroups(),"
    program += " [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')])"
    seen = inside(Isolation(uid=200_001, expose=interpreter()), program)
    assert seen == "(200001, 200001, 200001) [] ['0000000000000000']"


def test_a_network_of_its_own_has_loopback_alone() -> None:
    network = walls.survey().network
    if network == isolation.SHARED:
        pytest.skip("this kernel lets nobody here make network namespaces")
    program = "import socket; s = socket.create_server(('127.0.0.1', 0));"
    program += " socket.create_connection(s.getsockname()); print(socket.if_nameindex())"
    assert inside(Isolation(network=network), program) == "[(1, 'lo')]"


def test_an_unprivileged_network_namespace_leaves_no_capabilities() -> None:
    program = "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')])"
    seen = inside(Isolation(network=isolation.USER), program)
    if "PermissionError" in seen or "OSError" in seen:
        pytest.skip(f"this kernel has no user namespaces for us: {seen}")
    assert seen == "['0000000000000000']"


@needs_root
def test_a_closed_directory_shows_only_what_was_asked_for(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "model").mkdir(parents=True)
    (closed / "model" / "config.json").write_text("{}")
    (closed / "secret").write_text("x")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    (closed / "model").chmod(0o755)
    closed.chmod(0o700)
    assert isolation.hidden([str(closed / "model")]) == {str(closed): [str(closed / "model")]}
    walled = Isolation(uid=200_001, expose=(*interpreter(), str(closed / "model")))
    program = (
        f"import os; print(os.listdir({str(closed)!r}), os.listdir({str(closed / 'model')!r}),"
    )
    program += f" os.path.exists({str(closed / 'secret')!r}))"
    assert inside(walled, program) == "['model'] ['config.json'] False"
    assert sorted(path.name for path in closed.iterdir()) == ["model", "secret"]


@needs_root
def test_an_engine_cannot_read_the_agents_credential(tmp_path: Path) -> None:
    """Nor its environment, which may hold the enrolment token."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    settings = read({"STOA_AGENT_DIR": str(tmp_path / "agent"), "HOME": "/"})
    cli.make_directory(settings)
    credential.pending_key(settings.directory)
    key = settings.directory / credential.PENDING_KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)  # the directory alone keeps everybody out, too
    program = """
for path in sys.argv[4:]:
    try:
        open(path, 'rb').read(1)
    except OSError as error:
        print(type(error).__name__, end=' ')
    else:
        print('read', end=' ')
"""
    walled = Isolation(uid=200_001, expose=interpreter())
    paths = [str(key), f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/cmdline"]
    assert inside(walled, program, *paths) == "PermissionError PermissionError read"


@pytest.mark.parametrize("said", ["a million", "-1", "0", "999", str(1 << 32)])
def test_engines_are_given_no_persons_user_id(said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import workers.agent.walls"],
        env={**os.environ, "STOA_AGENT_FIRST_UID": said},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and f"STOA_AGENT_FIRST_UID='{said}'" in done.stderr
    assert "Traceback" not in done.stderr


@needs_root
def test_no_two_engines_hold_one_uid(tmp_path: Path) -> None:
    holders = [tmp_path / name for name in ("one", "two")]
    for holder in holders:
        holder.mkdir()
    first, second = (walls.claim_uid(holder) for holder in holders)
    assert first != second
    assert min(first, second) >= walls.FIRST_UID
    assert walls.claim_uid(holders[0]) == first  # asked again
    holders[0].rmdir()  # its engine is gone, and nobody said so
    third = tmp_path / "three"
    third.mkdir()
    assert walls.claim_uid(third) == first
    for uid, holder in ((first, third), (second, holders[1])):
        walls.release_uid(uid, holder)


@needs_root
def test_a_uid_with_a_process_is_not_given_away(tmp_path: Path) -> None:
    holder = tmp_path / "gone"
    uid = walls.claim_uid(holder)
    left = subprocess.Popen(["sleep", "60"], user=uid, group=uid, extra_groups=[])
    try:
        assert walls.claim_uid(tmp_path / "next") != uid
    finally:
        left.kill()
        left.wait()
        walls.release_uid(uid, holder)


@needs_root
def test_a_directory_is_the_engines_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "left over").write_text("")
    made = walls.private_directory(tmp_path / "d", 200_001)
    state = made.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (200_001, 200_001, 0o700)
    assert list(made.iterdir()) == []
