"""What the README tells people to type must work."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from modeling_leccr.training.arguments import parse_recipe, read_overrides
from modeling_leccr.training.run import control_recipes
from tests.tiny import tiny_image, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def readme(root_dir: Path) -> str:
    return (root_dir / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_searches_a_folder_of_pictures(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The first thing that people try; a renamed argument would end their visit."""
    (code,) = blocks(readme, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    tiny_model(description_dropout=0.1).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for i in range(6):
        tiny_image(i).save(tmp_path / "pictures" / "sub" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    assert '"outputs/demo/model"' in code
    exec(compile(code.replace("outputs/demo/model", "model"), "README", "exec"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"^  -?\d\.\d{3}  sub/\d\.png$", printed, flags=re.MULTILINE)) == 10
    assert (tmp_path / "pictures.index").is_dir()


def test_the_recipe_of_the_readme_builds_with_its_control(readme: str, tmp_path: Path):
    """A recipe that people copy must name settings that exist."""
    (text,) = blocks(readme, "yaml")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    recipe = parse_recipe([str(tmp_path / "mine.yaml"), "--use_cpu", "true"])
    assert recipe.data.target_languages == ["de", "fr"]
    assert list(control_recipes(recipe)) == ["two streams"]


def test_the_commands_of_the_readme_name_what_exists(readme: str, root_dir: Path):
    """A command that was renamed fails at the reader's, not here."""
    code = "\n".join(blocks(readme, "bash"))
    modules = set(re.findall(r"-m ([\w.]+)", readme))
    assert {"hub_scripts.search", "hub_scripts.evaluate", "benchmarks.ranks"} <= modules
    assert not [module for module in modules if find_spec(module) is None]
    makefile = (root_dir / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", code, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    launched = [line.split("train.py mine.yaml")[1] for line in code.splitlines() if "train.py mine.yaml" in line]
    assert len(launched) == 4
    for rest in launched:
        read_overrides(rest.partition("#")[0].split())


def test_links_to_files_of_the_repository_lead_somewhere(readme: str, root_dir: Path):
    """Files move; what the text names in back quotes should be there."""
    names = set(re.findall(r"`((?:configs|processing|modeling_leccr|retrieval|hub_scripts)/[\w./]+)`", readme))
    assert names
    assert not [name for name in names if not (root_dir / name).exists()]
    for name in ("LICENSE", "CITATION.cff"):
        assert f"`{name}`" in readme and (root_dir / name).is_file()


def test_nobody_is_told_to_install_a_package_of_our_name_from_an_index(readme: str, root_dir: Path):
    """Nobody here has published one; what an index holds under the name may be a stranger's."""
    packages = ("hub_scripts", "modeling_leccr", "processing", "reporting", "retrieval")
    sources = {path: path.read_text(encoding="utf-8") for name in packages for path in (root_dir / name).rglob("*.py")}
    texts = {root_dir / "README.md": readme, **sources}
    assert not [path for path, text in texts.items() if re.search(r"pip install\W+(-\S+ )*\W*leccr\b", text)]
    project = (root_dir / "pyproject.toml").read_text(encoding="utf-8")
    named = {name for text in sources.values() for name in re.findall(r"install_hint\(['\"](\w+)", text)}
    assert {"data", "demo", "mteb"} <= named
    assert not [name for name in named if not re.search(rf"^{name} = \[", project, flags=re.MULTILINE)]
