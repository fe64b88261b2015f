"""What the README and docs/ tell people to type must work."""

import re
import shlex
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from huggingface_hub import HfApi

from hub_scripts.cli import COMMANDS, main
from modeling_leccr.configuration_leccr import LeccrConfig
from modeling_leccr.export import save_for_hub
from modeling_leccr.modeling_leccr import LeccrModel
from modeling_leccr.training.adapters import prepare_parts, save_adapter
from modeling_leccr.training.arguments import DataArguments, LeccrTrainingArguments, ModelArguments, parse_recipe
from modeling_leccr.training.controls import control_recipes
from tests.hub_parts import SPLITS, write_folder
from tests.hub_server import hub
from tests.recipe_data import option
from tests.tiny import tiny_image, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def readme(root_dir: Path) -> str:
    return (root_dir / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def texts(readme: str, root_dir: Path) -> str:
    """The README and what it leads to."""
    return "\n".join([readme, *(path.read_text(encoding="utf-8") for path in sorted((root_dir / "docs").glob("*.md")))])


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language, those of lists as well, which are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == len(re.findall(rf"```{language}", text))
    return [dedent(code) for _, code in found]


def command_lines(text: str) -> list[list[str]]:
    """The words of each line of the shell, without comments."""
    code = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    return [words for line in code.splitlines() if (words := shlex.split(line, comments=True))]


def write_recipes(text: str, folder: Path) -> None:
    """The recipes of a text, by the name in their first line."""
    for code in blocks(text, "yaml"):
        name = code.splitlines()[0].removeprefix("# ")
        assert name.endswith(".yaml"), f"a recipe begins with its name, got {name!r}"
        (folder / name).write_text(code, encoding="utf-8")


def parse(command: str, arguments: list[str]) -> None:
    """Read the arguments of a command as the command does; whatever is wrong with them ends the test."""
    try:
        import_module(COMMANDS[command][0]).parse_arguments(arguments)
    except SystemExit as error:
        pytest.fail(f"leccr {command} {shlex.join(arguments)}: {error}")


def test_the_python_of_the_readme_searches_a_folder_of_pictures(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The first thing that people try; a renamed argument would end their visit."""
    (code,) = [block for block in blocks(readme, "python") if "outputs/demo/model" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    tiny_model(description_dropout=0.1).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for i in range(6):
        tiny_image(i).save(tmp_path / "pictures" / "sub" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("outputs/demo/model", "model"), "README", "exec"), {})
    printed = capsys.readouterr().out
    assert len(re.findall(r"^  -?\d\.\d{3}  sub/\d\.png$", printed, flags=re.MULTILINE)) == 10
    assert (tmp_path / "pictures.index").is_dir()


def test_the_other_python_of_the_readme_runs(
    texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """What is copied into other tools must work there, from the names on the Hub to the last line."""
    codes = [code for code in blocks(texts, "python") if "outputs/demo/model" not in code]
    for name in ("attach_images(", "pipeline(", "SentenceTransformer(", "merge_and_unload(", "get_peft_model("):
        assert [code for code in codes if name in code], f"{name} is in no block any more"
    model = save_for_hub(tiny_model(description_dropout=0.1), tiny_processor(), tmp_path / "model")
    for split, count in SPLITS.items():
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for number in range(count):
            tiny_image(number).save(tmp_path / "pictures" / split / f"{number}.png")
    tiny_image(0).save(tmp_path / "beach.jpg")
    monkeypatch.chdir(tmp_path)
    with hub(tmp_path / "home") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        data = write_folder(tmp_path / "data")
        main(["push_dataset", "--dataset", str(data), "--repo", "owner/pets", "--license", "cc-by-4.0"])
        HfApi().create_repo("owner/leccr-demo")
        HfApi().upload_folder(repo_id="owner/leccr-demo", folder_path=model)
        adapted = LeccrModel.from_pretrained("owner/leccr-demo")
        prepare_parts(adapted, {"vision_training": "frozen", "text_training": "lora"}, {})
        save_adapter(adapted, tmp_path / "outputs" / "tuned" / "adapter")
        for code in codes:
            exec(compile(code.replace("YOUR-NAME", "owner"), f"README: {code[:40]!r}", "exec"), {})
        assert "adapter_config.json" in server.files("owner/leccr-demo-lora", "models")
    assert (tmp_path / "outputs" / "merged" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "'label': 'zwei Sterne'" in printed and re.search(r"tensor\(\[\[-?\d\.", printed)


def test_the_recipe_of_the_readme_builds_with_its_control(texts: str, tmp_path: Path):
    """A recipe that people copy must name settings that exist."""
    write_recipes(texts, tmp_path)
    recipe = parse_recipe([str(tmp_path / "mine.yaml"), "--use_cpu", "true"])
    assert recipe.data.target_languages == ["de", "fr"]
    assert list(control_recipes(recipe)) == ["two streams"]
    tuned = parse_recipe([str(tmp_path / "tuned.yaml"), "--use_cpu", "true"])
    assert tuned.model.base_model == "YOUR-NAME/leccr-demo" and tuned.training.text_training == "lora"


def test_the_commands_of_the_readme_name_what_exists(texts: str, root_dir: Path):
    """A command that was renamed fails at the reader's, not here."""
    modules = set(re.findall(r"-m ([\w.]+)", texts))
    assert {"hub_scripts.search", "hub_scripts.evaluate", "benchmarks.ranks"} <= modules
    assert not [module for module in modules if find_spec(module) is None]
    makefile = (root_dir / "Makefile").read_text(encoding="utf-8")
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (root_dir / "benchmarks").glob("*.py"))
    for words in command_lines(texts):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words
        if "benchmarks." in " ".join(words):
            assert not [word for word in words if word.startswith("--") and f'"{word}"' not in benchmarks], words


def test_the_options_of_the_commands_of_the_readme_exist(texts: str):
    """An option that was renamed, or is needed and not given, is all that a reader sees of a command."""
    scripts = [words for words in command_lines(texts) if words[0] == "leccr" or "hub_scripts" in " ".join(words)]
    assert {"read_dataset", "describe", "translate", "push_dataset", "push_model"} <= {words[1] for words in scripts}
    for words in scripts:
        start = next(i for i, word in enumerate(words) if word == "leccr" or word.startswith("hub_scripts."))
        if words[start] == "leccr":
            parse(words[start + 1], words[start + 2 :])
        else:
            parse(words[start].removeprefix("hub_scripts."), words[start + 1 :])


def test_the_options_that_the_text_of_the_readme_names_exist(texts: str, capsys: pytest.CaptureFixture[str]):
    """These are parts of a command, so what it needs may be missing, but not what is named."""
    named = [text.split() for text in re.findall(r"`leccr ([a-z][^`]*)`", texts)]
    assert {"search", "describe", "convert_checkpoint"} <= {words[0] for words in named}
    for command, *words in named:
        options = [word for word in words if word.startswith("--")]
        place = words[: words.index(options[0])] if options else words
        with pytest.raises(SystemExit, match="0"):
            import_module(COMMANDS[command][0]).parse_arguments([*place, "--help"])
        told = capsys.readouterr().out
        assert not [option for option in options if not re.search(rf"{option}\b", told)], (command, words)


def test_the_settings_that_train_py_is_given_in_the_readme_exist(texts: str, root_dir: Path, tmp_path: Path):
    """A setting that was renamed stops a run at its start."""
    write_recipes(texts, tmp_path)
    launched = [words for words in command_lines(texts) if "train.py" in words and "--help" not in words]
    assert len(launched) >= 8
    for words in launched:
        assert "--config_file" not in words or (root_dir / option(words, "--config_file")).is_file()
        recipe, *settings = words[words.index("train.py") + 1 :]
        folder = root_dir if recipe.startswith("configs/") else tmp_path
        # Neither a GPU nor its number types are here; the names are what is read.
        assert parse_recipe([str(folder / recipe), *settings, "--use_cpu", "true", "--bf16", "false"])


def test_the_settings_that_the_text_of_the_readme_names_exist(texts: str):
    """`name: value` in the text is copied into a recipe, where a name that was changed stops the run."""
    named = re.findall(r"`(?:--)?([a-z_]+)(?:: [^`]+)?`", texts)
    settings = {
        entry.name
        for part in (ModelArguments, DataArguments, LeccrTrainingArguments, LeccrConfig)
        for entry in fields(part)
    }
    with_value = set(re.findall(r"`([a-z_]+): [^`]+`", texts)) - {"item_source"}
    assert {"text_training", "gradient_cache_chunk_size", "streaming"} <= settings & {*named, *with_value}
    assert not with_value - settings


def test_the_table_of_published_recipes_is_that_of_the_recipes(texts: str, root_dir: Path):
    """Two places for one number: whoever compares them must not find two numbers."""
    table = re.findall(r"^\| `(\w+\.yaml)` \| [^|]* \| (.*) \|$", texts, flags=re.MULTILINE)
    published = sorted(path.name for path in (root_dir / "configs").glob("m*_*.yaml"))
    assert sorted(name for name, _ in table) == published
    for name, cells in table:
        path = root_dir / "configs" / name
        training = parse_recipe([str(path), "--use_cpu", "true"]).training
        *numbers, sum_r = cells.split(" | ")
        terms = ("guidance", "slot_diversity", "slot_contrastive", "slot_vision")
        assert [float(number) for number in numbers] == [
            *(training.loss[term] for term in terms),
            training.num_train_epochs,
        ]
        assert f"SumR: {sum_r[:5]} by NRCCR" in path.read_text(encoding="utf-8")


def test_links_to_files_of_the_repository_lead_somewhere(texts: str, root_dir: Path):
    """Files move; what the text names in back quotes should be there."""
    names = set(re.findall(r"`((?:configs|docs|processing|modeling_leccr|retrieval|hub_scripts)/[\w./]+)`", texts))
    assert names
    assert not [name for name in names if not (root_dir / name).exists()]
    for name in ("LICENSE", "CITATION.cff"):
        assert f"`{name}`" in texts and (root_dir / name).is_file()


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
