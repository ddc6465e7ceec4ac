"""The rooms of the experiments: what each may import, and that the scripts above them are thin; how long files may be,
and that tests stand alone."""

import ast
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
TESTS = ROOT.parent / "tests"
# In order: each may import itself, and rooms that stand above it here and are named.
BASE = {"support", "reporting", "configs"}
MAY_IMPORT = {
    "support": set(),
    "reporting": {"support"},
    "configs": {"support"},
    "runs": BASE,
    "comparison": BASE | {"runs"},
    "study": BASE | {"runs"},
    "published": BASE | {"runs"},
    "samplers": {"support", "reporting"},
    "benchmarks": BASE | {"runs", "samplers"},
    "claims": {"support", "reporting", "comparison", "study", "published", "samplers", "benchmarks"},
}
MAX_LINES = 350
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")


def rooms_of(path: Path) -> set[str]:
    """The rooms and scripts that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("experiments.")
            }
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            if node.module == "experiments":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("experiments."):
                found.add((node.module or "").split(".")[1])
    return found


def test_the_table_has_every_room_and_no_circle():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)
    seen = set()
    for room, allowed in MAY_IMPORT.items():
        assert allowed <= seen, f"{room} uses what is below it in the table"
        seen.add(room)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_lower_ones_alone(room):
    for path in (ROOT / room).rglob("*.py"):
        assert rooms_of(path) <= MAY_IMPORT[room] | {room}, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_only_call_a_room(script):
    text = (ROOT / f"{script}.py").read_text()
    assert len(text.splitlines()) <= 20
    (room,) = rooms_of(ROOT / f"{script}.py") - {"support"}
    assert room in MAY_IMPORT
    assert f"`python -m experiments.{script}`" in text


def modules() -> list[Path]:
    package = ROOT.parent / "hmcvae"
    return sorted([*ROOT.rglob("*.py"), *package.rglob("*.py")])


def test_no_module_is_too_long():
    paths = [*modules(), *TESTS.rglob("*.py")]
    long = {str(path): count for path in paths if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_no_test_module_imports_another():
    """What several need is in `tests.support`, and fixtures are in a conftest."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            assert all(name.startswith("tests.support.") for name in names if name.startswith("tests")), path


def test_no_function_is_too_long():
    """Without its docstring."""
    long = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            count = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if count > 50:
                long[f"{path}:{node.name}"] = count
    assert not long


def test_no_method_is_told_by_its_name():
    for path in modules():
        assert "method ==" not in path.read_text(), path
