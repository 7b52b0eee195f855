"""Every function and test that docs/paper-map.md names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper-map.md").read_text()
CODE = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def names_in(path):
    """Return the functions, classes, methods (`Class.method`) and constants of a module."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("file", "name"), CODE)
def test_code_is_there(file, name):
    assert name in names_in(ROOT / "src" / "diffusionpose" / file)


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_tests_are_there(file, name):
    assert name in names_in(ROOT / file)


def test_equations_and_rows_are_on_the_page():
    for number in range(1, 6):
        assert f"Eq. {number}" in PAGE
    for row in (
        "Table 5 baseline",
        *(f"Table 5 ({r})" for r in "abc"),
        *(f"Table 6 ({r})" for r in "abc"),
    ):
        assert row in PAGE
    for row in "abcde":
        assert f"Table 7 ({row})" in PAGE
