"""The modules that travel with a model: what they may import, and the zero-shot pipeline (see also test_export.py)."""

import ast
import re
import sys
from pathlib import Path

import pytest

from modeling_leccr.export import save_for_hub
from tests.tiny import tiny_model, tiny_processor

# What a stranger has who installed torch and transformers for images.
ALLOWED = {"torch", "transformers", "huggingface_hub", "PIL", "numpy", "safetensors"} | set(sys.stdlib_module_names)
# Imported inside a `try`, for a video file alone, with an error of its own.
TRIED = {"video_file_leccr": {"av"}}

# Run by people, imported by nobody.
CHECK = "check_embeddings.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    return save_for_hub(tiny_model(description_dropout=0.2), tiny_processor(), folder)


def imports_of(source: str) -> tuple[set[str], set[str]]:
    """Names of the sibling modules and of the packages that a module imports, in functions too."""
    siblings, packages = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            siblings.add(f"{'.' * (node.level - 1)}{node.module}")
        elif isinstance(node, ast.ImportFrom):
            packages.add(str(node.module).split(".")[0])
    return siblings, packages


def test_every_module_that_the_shipped_code_needs_is_shipped(exported: Path) -> None:
    """transformers copies by a regular expression; a form it does not know leaves a module behind in silence."""
    shipped = {path.stem for path in exported.glob("*.py")}
    assert {"configuration_leccr", "modeling_leccr", "slots_leccr", "towers_leccr", "matching_leccr"} <= shipped
    assert "processing_leccr" in shipped
    for path in exported.glob("*.py"):
        siblings, packages = imports_of(path.read_text(encoding="utf-8"))
        assert siblings <= shipped, path.name
        assert packages <= ALLOWED | TRIED.get(path.stem, set()), path.name


def test_shipped_modules_have_names_of_their_own(exported: Path) -> None:
    """Two folders with one file name overwrite each other in a model repository."""
    assert all(path.stem.endswith("_leccr") for path in exported.glob("*.py") if path.name != CHECK)


def test_relative_imports_in_docstrings_are_none(exported: Path) -> None:
    """transformers would take a docstring line for an import, and fail to save."""
    for path in exported.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        by_line = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", source, flags=re.MULTILINE))
        assert by_line == imports_of(source)[0], path.name
