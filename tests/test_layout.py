"""`platform/` is a source folder: with an __init__.py it would shadow Python's own module."""

import ast
import platform
import re
from pathlib import Path

from tests import groups

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("platform", "billing", "workers", "compliance", "frontend", "tests", "deploy")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# Published as it stands: whoever checks a bundle with it has this file and nothing else.
ONE_FILE = {"compliance/bundles/stoa_verify.py": 950}


def python_files() -> list[Path]:
    found = [path for name in SOURCES for path in (ROOT / name).rglob("*.py")]
    return [path for path in found if "migrations" not in path.parts]


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert platform.__file__ is not None
    assert ROOT not in Path(platform.__file__).parents
    assert platform.system() == "Linux"


def test_rooms_import_nothing_in_their_package_file() -> None:
    rooms = ["billing", "workers", "compliance", "frontend", "platform/gateway"]
    rooms += [
        f"platform/controlplane/{name}"
        for name in ("tenancy", "fleet", "placement", "scaling", "endpoints", "api")
    ]
    for room in rooms:
        tree = ast.parse((ROOT / room / "__init__.py").read_text())
        assert ast.get_docstring(tree), f"{room}/__init__.py says nothing about its room"
        assert len(tree.body) == 1, f"{room}/__init__.py does more than say what it is"


def test_files_and_functions_stay_small() -> None:
    too_long = []
    for path in python_files():
        text = path.read_text()
        name = str(path.relative_to(ROOT))
        if text.count("\n") > ONE_FILE.get(name, MAX_FILE_LINES):
            too_long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not too_long


def test_every_group_of_tests_is_kept_together() -> None:
    marked = [p for p in python_files() if re.search(r"mark\.xdist_group\(", p.read_text())]
    assert marked
    assert [path.name for path in marked if not groups.group(path)] == []
