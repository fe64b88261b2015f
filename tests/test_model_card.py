"""The card of a model: complete, valid, true to its files, silent where nothing is known, and runnable."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from modeling_leccr.export import save_for_hub
from processing.traces import PRIVATE_SERVER
from reporting.model_card import ModelFacts, eval_result_files, model_card, read_facts
from tests.hub_server import HubServer, hub
from tests.model_card_parts import REPO, blocks, full_record, headings, protocol, scores, section, write_card
from tests.tiny import tiny_model, tiny_processor

ALWAYS = ["Use", "Model", "Limits", "Licence", "Citation"]
# Marks of Markdown, YAML, Jinja and HTML, the end of a front matter, of a table cell and of a block of code.
POISON = "{{ 7 * 7 }} {% raw %} | `x` ```\n---\n\n\n\n```\n# Title\n<script> *b* [a](b) \"q\" 'r' \\ : #\r\n\u2028end"
FENCE = "a\n\n\n```\n## b"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of which nothing else is known."""
    return save_for_hub(
        tiny_model(description_dropout=0.1), tiny_processor(), tmp_path_factory.mktemp("bare") / "model"
    )


@pytest.fixture
def folder(bare: Path, tmp_path: Path) -> Path:
    """The same with a record."""
    shutil.copytree(bare, tmp_path / "model")
    full_record().write(tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    return tmp_path / "model"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


def facts_of(folder: Path, **changes: Any) -> ModelFacts:
    """Facts with another record, through its file."""
    full_record(**changes).write(folder)
    return read_facts(folder, REPO)


def test_metadata_are_what_the_hub_asks_for(folder: Path, server: HubServer) -> None:
    """The Hub finds models by their metadata, and draws the widget and the results from them."""
    text = model_card(read_facts(folder, REPO, license_id="apache-2.0"))
    ModelCard(text).validate()
    data = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert ModelCard(text).data.to_dict() == data
    assert {name: data[name] for name in data if name not in ("model-index", "tags")} == {
        "language": ["en", "de", "zh", "fr"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": ["openai/clip-vit-base-patch32", "google-bert/bert-base-multilingual-cased"],
        "base_model_relation": "finetune",
        "datasets": ["org/pets"],
    }
    assert {"image-text-retrieval", "cross-lingual-retrieval", "leccr"} <= set(data["tags"])
    with pytest.raises(ValueError, match=r"license.* must be one of"):
        ModelCard(model_card(read_facts(folder, REPO, license_id="mine-1.0"))).validate()


def test_the_model_index_holds_the_reported_recalls(folder: Path) -> None:
    """Numbers of validation beside those of other models' test splits would be taken for test numbers."""
    card = ModelCard(model_card(read_facts(folder, REPO)))
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "leccr-mine" and results == card.data.eval_results
    assert len(results) == 21
    assert {(result.dataset_type, result.dataset_config, result.dataset_split) for result in results} == {
        ("org/pets", "de", "test_2017")
    }
    found = {result.metric_name: result.metric_value for result in results}
    assert found["German, text to image R@1"] == 31.13
    assert found["Chinese, image to text R@10"] == 36.12
    assert found["French (machine translation), SumR"] == 345.5


def test_the_card_tells_what_was_measured_and_how(folder: Path) -> None:
    """A recall without its split, its captions an item and its tie rule cannot be compared."""
    text = model_card(read_facts(folder, REPO))
    assert headings(text) == ["Use", "Results", "Model", "Training", "Versions and machine", *ALWAYS[2:]]
    results = section(text, "Results")
    assert "| German | 31.1 | 32.1 | 33.1 | 34.1 | 35.1 | 36.1 | 345.5 | 1,040 | 2,080 | 1 to 3 |" in results
    assert "| French (machine translation) |" in results and "| mean |" not in results
    for part in (
        "split `test_2017`", "fused: 0.75 of the global score and 0.25 of the best slot", "the pictures: used",
        "Ties: pessimistic: a tie counts", "chosen by: best SumR on validation", "machine translations where the table",
    ):  # fmt: skip
        assert part in results, part
    assert "Queries: human captions, or machine translations where the table says so" in results
    drawn = facts_of(folder, settings={"dataset": "scenes"}, metrics={"test": scores("de")})
    assert "Queries: captions written by rules, against" in section(model_card(drawn), "Results")
    only_validation = facts_of(folder, metrics={"validation": scores("de", 1)})
    assert "split `dev`" in section(model_card(only_validation), "Results")


def test_the_card_tells_how_the_model_was_made(folder: Path) -> None:
    """Without recipe, towers and sizes nobody can train it again, or say what to expect of it."""
    text = model_card(read_facts(folder, REPO))
    number = sum(value.numel() for value in tiny_model(description_dropout=0.1).state_dict().values())
    for row in (
        f"| parameters | {number:,} |", "| type of the weights | float32 |", "| semantic slots an item | 4 |",
        "| width of an embedding | 16 |", "| picture, pixels | 32 x 32 |", "| longest text, tokens | 48 |",
        "| vision tower | clip\\_vision\\_model, width 32, from openai/clip-vit-base-patch32 |",
    ):  # fmt: skip
        assert row in section(text, "Model"), row
    training = section(text, "Training")
    assert "[org/pets](https://huggingface.co/datasets/org/pets)" in training and "2.5 minutes" in training
    assert "translations into German and Chinese" in training
    recipe = yaml.safe_load(blocks(text, "yaml")[0])
    assert recipe == {name: value for name, value in full_record().settings.items() if name != "controls"}
    versions = section(text, "Versions and machine")
    assert "| python | 3.11.7 |" in versions and "| torch | 2.13.0 |" in versions and "accelerator" not in versions


@pytest.mark.parametrize("settings", [{"description_dropout": 0.1}, {}, {"item_source": "description"}])
def test_the_limits_say_whether_descriptions_are_needed(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Who finds out from an error after a day of encoding has lost the day."""
    folder = save_for_hub(tiny_model(**settings), tiny_processor(), tmp_path / "model")
    limits, use = (section(model_card(read_facts(folder, REPO)), name) for name in ("Limits", "Use"))
    needs = "description_dropout" not in settings
    assert ("Every picture needs an English description" in limits) is needs
    architecture = section(model_card(read_facts(folder, REPO)), "Model")
    assert (
        ("slots an item" in architecture) is ("share of the global" in architecture) is ("item_source" not in settings)
    )
    # The pipeline has no place for a description.
    assert ("import pipeline" in use) is not needs


def test_a_section_without_data_is_left_out(bare: Path, server: HubServer) -> None:
    """Empty headings and placeholders tell readers that nobody looked."""
    text = model_card(read_facts(bare, REPO))
    assert headings(text) == ALWAYS
    for word in ("None", "nan", "{{", "{%", "[]", "recipe", "Recall", "translations", "\n\n\n"):
        assert word not in text, word
    for heading in ALWAYS:
        assert section(text, heading).strip(), heading
    ModelCard(text).validate()
    data = ModelCard(text).data.to_dict()
    assert data["language"] == ["en"]
    assert not {"base_model", "base_model_relation", "datasets", "model-index"} & set(data)
    assert "was not recorded" in section(text, "Limits")


def test_a_record_of_settings_alone_has_no_results(folder: Path) -> None:
    """A checkpoint may be pushed before anything was measured."""
    text = model_card(facts_of(folder, metrics={}, protocol={}, environment={}, seconds=None))
    assert headings(text) == ["Use", "Model", "Training", *ALWAYS[2:]]
    assert "chosen by" not in text and "model-index" not in text


def test_the_licence_is_the_one_given_or_the_one_that_was_there(folder: Path) -> None:
    """A push without an argument must not take back what the owner once allowed, nor invent a permission."""
    assert "licence of this model was not stated" in write_card(folder, REPO)
    assert ModelCard.load(folder / "README.md").data.license == "unknown"
    text = model_card(read_facts(folder, REPO, license_id="mit"))
    assert "`mit`" in section(text, "Licence") and "not stated" not in text
    (folder / "README.md").write_text(text, encoding="utf-8")
    assert read_facts(folder, REPO).license_id == "mit"
    assert read_facts(folder, REPO, license_id="cc-by-4.0").license_id == "cc-by-4.0"
    for other in ("no front matter", "---\nlicense: [mit, other]\n---\n"):
        (folder / "README.md").write_text(other, encoding="utf-8")
        assert read_facts(folder, REPO).license_id is None
    (folder / "README.md").write_text("---\n[\n---\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)metadata of .*README.md cannot be read .*; correct or delete it"):
        read_facts(folder, REPO)


def test_only_names_on_the_hub_become_links(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the metadata is a link to a stranger's repository of that name, or to nowhere."""
    (tmp_path / "data" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for place in (
        "data/pets",
        "pets",
        "./data/pets",
        str(tmp_path / "data" / "pets"),
        "../x/pets",
        "a/b/pets",
        "scenes",
    ):
        settings = {"dataset": place, "vision_tower": place, "text_tower": {"model_type": "bert"}}
        facts = facts_of(folder, settings=settings)
        data = ModelCard(model_card(facts)).data.to_dict()
        assert not {"datasets", "base_model", "base_model_relation"} & set(data), place
        assert data["model-index"][0]["results"][0]["dataset"]["type"] == "unknown", place
        assert eval_result_files(facts) == {}, place


def test_base_models_are_read_from_the_towers_too(folder: Path) -> None:
    """A converted checkpoint has no recipe, but its towers may remember where they are from."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for tower in ("vision_config", "text_config"):
        config[tower]["_name_or_path"] = "org/both"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert facts_of(folder, settings={}).base_models == ["org/both"]
    tuned = facts_of(folder, settings={"base_model": "org/leccr"})
    assert tuned.base_models == ["org/leccr", "org/both"]  # its licence holds as well
    assert facts_of(folder, settings={"base_model": "outputs/demo/model/"}).base_models == ["org/both"]


def test_results_for_the_hub_name_the_data_set_and_the_task(folder: Path) -> None:
    """The Hub reads `.eval_results`; an entry without data set or with two values of one task is refused."""
    files = eval_result_files(read_facts(folder, REPO))
    assert list(files) == [".eval_results/org--pets.yaml"]
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/org--pets.yaml"]))
    assert {entry.dataset_id for entry in entries} == {"org/pets"}
    tasks = {entry.task_id: entry.value for entry in entries}
    assert len(tasks) == len(entries) == 21
    assert tasks["de_t2i_R@1"] == 31.13 and tasks["fr_mt_sum_r"] == 345.5
    assert {entry.notes for entry in entries} == {"split test_2017, fused scores"}
    assert eval_result_files(facts_of(folder, metrics={})) == {}


def test_no_text_from_outside_breaks_the_card(folder: Path, server: HubServer) -> None:
    """Captions and names are anybody's: one with a fence or a front matter would rewrite the rest of the card."""
    plain = model_card(read_facts(folder, REPO))
    poisoned = {name: POISON for name in ("split", "scoring", "tie_rule")}
    settings = {
        **full_record().settings,
        "dataset": POISON,
        POISON: POISON,
        "list": [POISON],
        "fence": FENCE,
        "deep": {POISON: POISON},
    }
    text_facts = facts_of(
        folder,
        languages=("de", POISON),
        metrics={"test": scores("de") | scores(POISON)},
        protocol={"test": {**protocol("test", "de", POISON), **poisoned}},
        checkpoint_choice=POISON,
        settings={**settings, "target_languages": ["de", POISON]},
        environment={"python": POISON, POISON: POISON, "libraries": {POISON: POISON}},
    )
    golden = {"images": ["0.png"], "texts": [POISON, "a dog"], "descriptions": [POISON]}
    facts = replace(text_facts, golden=golden, repo_id=POISON.replace("/", ""))
    text = model_card(facts)
    ModelCard(text).validate()
    assert ModelCard(text).content.strip() == text.strip()
    assert headings(text) == headings(plain)
    assert [line for line in text.splitlines() if line.lstrip().startswith("```")] == [
        line for line in plain.splitlines() if line.lstrip().startswith("```")
    ]
    outside = re.sub(r"```.*?^```", "", text.partition("\n---\n")[2], flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^# .*", outside, flags=re.MULTILINE) == [outside.strip().split("\n")[0]]
    assert not re.search(r"(?<!\\)<script|(?<!\\)\*b|(?<!\\)\[a\]", re.sub(r"`[^`\n]*`", "", outside))
    assert "49" not in outside
    spans = next(line for line in section(text, "Results").splitlines() if line.startswith("- Data: "))
    assert spans.count("`") == 4
    table = [line for line in section(text, "Results").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {12}
    session: dict[str, Any] = {}
    exec(blocks(text)[0].split("model = ")[0], session)
    lines = blocks(text)[0].split("description = ")[1].split("inputs = ")[0]
    exec("description = " + lines, session)
    assert session["description"] == POISON and session["queries"] == [POISON, "a dog"]
    told = {key: value for key, value in settings.items() if key != "controls"}
    assert yaml.safe_load(blocks(text, "yaml")[0]) == {**told, "target_languages": ["de", POISON]}


def test_nothing_of_a_machine_is_in_the_card(folder: Path, tmp_path: Path) -> None:
    """The record may come from an older run or another hand; the card is public."""
    secret, home = "hf_" + "a1B2" * 8, str(PurePosixPath("/", "home", "alice", "work"))
    facts = facts_of(
        folder,
        settings={
            "dataset": f"{home}/pets",
            "images": f"{home}/pictures",
            "vision_tower": f"{home}/towers/clip",
            "output_dir": f"{home}/outputs/secret",
            "hub_token": "abcdef",
            "url": "http://alice:pass@10.0.0.3:8000/v1",
            "note": f"token {secret}",
        },
        checkpoint_choice=f"the best of {home}/runs",
        protocol={"test": {**protocol("test", "de"), "tie_rule": f"see {home}/ties"}},
        environment={"python": f"{home}/.venv/bin/python", "libraries": {"torch": f"file://{home}/torch.whl"}},
    )
    for text in (model_card(facts), json.dumps(eval_result_files(facts))):
        for word in ("alice", "/work", secret, "pass@", "10.0.0.3", "abcdef", "secret", str(tmp_path)):
            assert word not in text, word
    assert PRIVATE_SERVER in model_card(facts) and "pets" in model_card(facts)


def test_weights_are_counted_in_all_their_files(tmp_path: Path) -> None:
    """A sharded model showed the parameters of its first file."""
    model = tiny_model(description_dropout=0.1).to(torch.bfloat16)
    folder = save_for_hub(model, tiny_processor(), tmp_path / "model", max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    facts = read_facts(folder, REPO)
    assert facts.num_parameters == sum(value.numel() for value in model.state_dict().values())
    assert facts.dtype == "bfloat16"


def test_a_folder_that_is_no_model_is_refused(folder: Path) -> None:
    """A card of half a model is a promise that loading breaks."""
    (folder / "processor_config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"processor_config.json is damaged .*; save the model again"):
        read_facts(folder, REPO)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config.json or no model\*.safetensors; give a saved model"):
        read_facts(folder, REPO)
