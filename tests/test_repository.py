"""Rules of the repository that no linter knows: sizes, what is shipped, what must not be written anywhere."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("modeling_leccr", "processing", "retrieval", "reporting")
SCRIPTS = ("hub_scripts", "benchmarks", "train.py")
MAX_FILE_LINES = 400
# Lines of code without the docstring; 40 is the aim, and a longer one needs a reason.
MAX_FUNCTION_LINES = 60

# Written in two parts, so that this file does not hold what it looks for.
MACHINE_FOLDERS = ("work", "root", "home", "Users", "tmp", "opt")
MACHINE_PATH = re.compile(r"(?<![\w./:~}\"'\\-])[\"'`(]?/" + f"(?:{'|'.join(MACHINE_FOLDERS)})" + r"/\w")
REGISTRY = re.compile(
    "|".join((r"pypi" + r"\.(?:org|python)", r"python" + r"hosted", r"download\.py" + r"torch", r"index" + r"[-_]url"))
)

# transformers cannot be installed without huggingface_hub and numpy.
SHIPPED_ROOTS = {"huggingface_hub", "numpy", "safetensors", "torch", "transformers", "PIL", *sys.stdlib_module_names}
# Imported inside a `try` with a message of its own, where transformers does not ask for it before it loads a model: it
# is needed for video files alone.
TRIED_ROOTS = {"av"}
# The pattern with which transformers collects the files to ship: it reads docstrings too.
SHIPPED_IMPORT = re.compile(r"^\s*from\s+\.(\S*)\s+import", re.MULTILINE)

TREE_INDENT = " │├└─"
TREE_NAME = re.compile(r"[\w.*-]+/|(?:[\w.*-]+/)*[\w*-]*\.\w+|(?:\.ci/)?(?:run|LICENSE|Makefile)")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files under version control; outside a checkout there is nothing to hold the rules against."""
    try:
        result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file())


def python_files(*roots: str) -> list[Path]:
    """Tracked Python files under the given folders or files; all of them without an argument."""
    files = [path for path in tracked_files() if path.suffix == ".py"]
    return [path for path in files if not roots or path.relative_to(ROOT).parts[0] in roots]


def shipped_modules() -> list[Path]:
    """Modules that travel to the Hub inside a model repository; their names say so."""
    return [path for path in python_files(*LIBRARIES) if path.stem.endswith(("_leccr", "_cl2cm"))]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, less the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def forbidden_statements(path: Path, *, allow_print: bool) -> Iterator[str]:
    """Asserts, bare excepts, exits and prints in a file."""
    calls = {"exit", "quit"} if allow_print else {"exit", "quit", "print"}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Assert):
            yield f"{place(path, node.lineno)} assert"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{place(path, node.lineno)} bare except"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
            yield f"{place(path, node.lineno)} {node.func.id}()"


def import_faults(path: Path) -> Iterator[str]:
    """Imports that work here and break once the file lies alone in a model repository."""
    found = []
    tree = parsed(path)
    tried = {node for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = SHIPPED_ROOTS | (TRIED_ROOTS if node in tried else set())
            found += [(node.lineno, name.name) for name in node.names if name.name.split(".")[0] not in roots]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            sibling = node.level == 1 and module.isidentifier() and (path.parent / f"{module}.py").is_file()
            shipped = module.endswith(("_leccr", "_cl2cm"))
            outside = node.level == 0 and module.split(".")[0] in SHIPPED_ROOTS
            if not outside and not (sibling and shipped):
                found.append((node.lineno, "." * node.level + module))
    yield from (f"{place(path, line)} imports {name}" for line, name in found)


def ghost_imports(path: Path) -> set[str]:
    """Names that transformers would look for as files, though no statement imports them."""
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom) and node.level]
    return set(SHIPPED_IMPORT.findall(path.read_text(encoding="utf-8"))) - {node.module or "" for node in nodes}


def tree_paths(readme: str) -> Iterator[str]:
    """Paths that the annotated tree of the README names: one a line, indented by folder, then its description."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL):
        if not re.search(r"^\W*modeling_leccr/", block, flags=re.MULTILINE):
            continue
        folders: list[tuple[int, str]] = []
        for line in block.splitlines():
            names = line.lstrip(TREE_INDENT)
            depth = len(line) - len(names)
            folders = [folder for folder in folders if folder[0] < depth]
            prefix = "".join(name for _, name in folders)
            for name in takewhile(TREE_NAME.fullmatch, names.split()):
                if name.endswith("/"):
                    folders.append((depth, name))
                yield prefix + name


def test_files_and_functions_stay_short():
    """A file that nobody can read in one sitting is where the faults of the official code lived."""
    files = [path for path in python_files() if path.relative_to(ROOT).parts[0] != "tests"]
    long_files = [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES]
    long_functions = [
        f"{place(path, node.lineno)} {node.name}: {code_lines(node)} lines"
        for path in files
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not long_files
    assert not long_functions


def test_libraries_do_not_print_exit_or_assert():
    """A print in a library breaks the JSON of a script; an assert is gone under `python -O`."""
    found = [fault for path in python_files(*LIBRARIES) for fault in forbidden_statements(path, allow_print=False)]
    found += [fault for path in python_files(*SCRIPTS) for fault in forbidden_statements(path, allow_print=True)]
    assert not found


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("assert x", "assert"),
        ("try:\n    f()\nexcept:\n    pass", "bare except"),
        ("print(1)", "print()"),
        ("exit(1)", "exit()"),
    ],
)
def test_each_forbidden_statement_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, fault: str):
    """A rule that never fires passes on anything."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "module.py"
    file.write_text(code, encoding="utf-8")
    assert [found.partition(" ")[2] for found in forbidden_statements(file, allow_print=False)] == [fault]


def test_no_tracked_file_names_a_machine_or_a_registry():
    """A path or an index of one machine makes the install or a test fail on every other."""
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        if path.name == "LICENSE" or b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{place(path, number)} {line.strip()[:80]}")
    assert not found


@pytest.mark.parametrize("folder", MACHINE_FOLDERS)
def test_machine_paths_are_found_and_addresses_are_not(folder: str):
    """A pattern that is too narrow lets a path through; one that is too wide is switched off by the next author."""
    for before in ("", "see ", 'open("', "path=", "`"):
        assert MACHINE_PATH.search(f"{before}/{folder}/x")
    for text in (f"https://example.org/{folder}/x", f"outputs/{folder}/x", f"../{folder}/x", f"{{name}}/{folder}/x"):
        assert not MACHINE_PATH.search(text)


def test_shipped_modules_import_only_what_a_model_repository_has():
    """`AutoModel.from_pretrained` on the Hub would fail where it worked on the machine that pushed."""
    assert not [fault for path in shipped_modules() for fault in import_faults(path)]
    assert not {path.name: ghosts for path in shipped_modules() if (ghosts := ghost_imports(path))}


@pytest.mark.parametrize(
    "line",
    [
        "import pandas",
        "import av",
        "try:\n    import pandas\nexcept ImportError:\n    raise",
        "from modeling_leccr.other_leccr import X",
        "from . import other_leccr",
        "from .parts.other_leccr import X",
        "from ..other_leccr import X",
        "from .absent_leccr import X",
        "from .helpers import X",
        "def f():\n    from processing.records import X",
    ],
)
def test_each_import_that_breaks_on_the_hub_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str):
    """Half of these save without a warning and fail only where the model is loaded."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name in ("other_leccr.py", "helpers.py"):
        (tmp_path / name).write_text("X = 1\n", encoding="utf-8")
    file = tmp_path / "module_leccr.py"
    file.write_text("import math\nimport torch.nn.functional as F\nfrom .other_leccr import X\n", encoding="utf-8")
    assert not list(import_faults(file))
    file.write_text(line + "\n", encoding="utf-8")
    assert len(list(import_faults(file))) == 1


def test_an_import_in_a_docstring_is_found(tmp_path: Path):
    """transformers reads docstrings with a regular expression and then looks for the file."""
    file = tmp_path / "module_leccr.py"
    file.write_text('"""Use it so:\n\nfrom .' + 'ghost import X\n"""\nfrom .real_leccr import Y\n', encoding="utf-8")
    assert ghost_imports(file) == {"ghost"}


def test_shipped_modules_have_names_of_their_own():
    """All shipped files land in one folder: of two with one name, the later overwrites the earlier in silence."""
    names = [path.name for path in shipped_modules()]
    assert len(names) == len(set(names))


def test_every_recipe_parses_to_settings():
    """A tab or a lost colon would show when a long run is started."""
    recipes = [path for path in tracked_files() if path.suffix in {".yaml", ".yml"} and "configs" in path.parts]
    if not recipes:
        pytest.skip("no recipes yet")
    for path in recipes:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(settings, dict) and settings, path.name


def test_the_readme_tree_names_files_that_exist():
    """A map that shows rooms which were moved sends every reader the wrong way."""
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("no README yet")
    paths = list(tree_paths(readme.read_text(encoding="utf-8")))
    assert len(paths) >= 10
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


def test_the_tree_of_a_readme_is_read_by_its_indents():
    """A reader that finds no path in the tree passes whatever the tree says."""
    readme = """
```text
train.py                    wiring only
LICENSE  Makefile  .ci/run
modeling_leccr/             the model
  slots_leccr.py            slots. And e.g. more/words
  training/
    trainer.py
configs/                    recipes
├── scenes.yaml flickr8k_*.yaml
```
```bash
python other.py
```
"""
    assert list(tree_paths(readme)) == [
        "train.py",
        "LICENSE",
        "Makefile",
        ".ci/run",
        "modeling_leccr/",
        "modeling_leccr/slots_leccr.py",
        "modeling_leccr/training/",
        "modeling_leccr/training/trainer.py",
        "configs/",
        "configs/scenes.yaml",
        "configs/flickr8k_*.yaml",
    ]
