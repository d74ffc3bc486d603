"""The rooms of the house: who may import whom, what starting up may cost, and what the library never does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("emollama", "server", "train", "eval")
HEAVY = ("torch", "cv2", "av", "transformers", "peft", "timm", "whisper", "open_clip", "scipy", "pandas", "sklearn")
LIBRARY = sorted((ROOT / "emollama").rglob("*.py"))
EVERYTHING = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """The modules a file imports, wherever in the file, as absolute names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library_knows_nothing_of_the_packages_above_it(path: Path) -> None:
    above = {name for name in imports(path) if name.split(".")[0] in {"server", "train", "eval"}}
    assert not above


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_relative_imports_are_not_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


def test_the_builtin_eval_is_never_shadowed() -> None:
    for path in [*EVERYTHING, *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                bound = {alias.asname or alias.name.split(".")[0] for alias in node.names}
                assert "eval" not in bound, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_tuning_and_quantisation_stay_in_backbones(path: Path) -> None:
    room = (
        path.relative_to(ROOT).parts[1] if path.is_relative_to(ROOT / "emollama") else path.relative_to(ROOT).parts[0]
    )
    used = {name.split(".")[0] for name in imports(path)}
    if room != "backbones":
        assert not used & {"peft", "bitsandbytes"}
    if room not in {"backbones", "encoders"}:
        assert "transformers" not in used


def started_with(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after running ``code``."""
    listing = f"{code}\nimport sys; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["emollama", "emollama.cli", "emollama.types", "emollama.labels", "emollama.errors"])
def test_importing_the_front_door_is_light(module: str) -> None:
    assert not started_with(f"import {module}") & set(HEAVY)


def test_help_is_light_and_lists_the_commands_of_all_packages() -> None:
    code = (
        "import sys\n"
        "from emollama.cli import main\n"
        "sys.argv = ['emollama', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('LOADED', ' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.partition("LOADED")
    assert not set(loaded.split()) & {*HEAVY, "fastapi", "uvicorn"}
    for command in ("analyze", "models", "serve", "train", "eval", "bench"):
        assert command in shown


# What ends in these files would end a process: there it is told to another one instead.
EDGES = {"emollama/batch/child.py"}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library_neither_prints_nor_swallows_errors(path: Path) -> None:
    broad = {"Exception", "BaseException"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name_of(path)}:{node.lineno} prints"
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {kind.id for kind in caught if isinstance(kind, ast.Name)}
            assert node.type is not None, f"{name_of(path)}:{node.lineno} catches everything"
            if name_of(path) in EDGES:
                continue
            assert not names & broad, f"{name_of(path)}:{node.lineno} catches {names & broad}"
