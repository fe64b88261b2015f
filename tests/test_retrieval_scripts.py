"""The command lines: search and evaluate on a saved model, and the one command that finds them."""

import json

import datasets
import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from PIL import Image

from hub_scripts import cli, evaluate, model_options, search
from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import push_model
from processing import local_models
from retrieval.items import open_items
from tests.hub_server import hub
from tests.test_retrieval_encode import make_split
from tests.tiny import tiny_image, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A saved tiny model with its processor."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model(description_dropout=0.1).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures without descriptions."""
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        tiny_image(i).save(tmp_path / "pictures" / f"{i}.png")
    return str(tmp_path / "pictures")


def test_search_over_a_folder_prints_hits_and_writes_picture_and_index(model_folder, pictures, tmp_path, capsys):
    """The 20 lines of the README: pictures in, hits out."""
    sheet, index = tmp_path / "hits.png", tmp_path / "index"
    arguments = ["--model", model_folder, "--items", pictures, "--query", "ein roter ball", "--query", "赤い"]
    search.main([*arguments, "--top-k", "2", "--save-picture", str(sheet), "--save-index", str(index)])
    first = capsys.readouterr().out
    assert first.count(".png") == 4
    assert "赤い" in first
    assert Image.open(sheet).width > 300

    search.main(["--model", model_folder, "--items", str(index), "--query", "ein roter ball", "--top-k", "2",
                 "--save-picture", str(sheet)])  # fmt: skip
    assert capsys.readouterr().out.strip() == first.split("\n\n")[0].strip()


def test_what_cannot_be_asked_is_refused_before_anything_is_encoded(model_folder, pictures, tmp_path, monkeypatch):
    """A typo in a query file must not show after hours of encoding."""
    monkeypatch.setattr(search.ItemIndex, "build", lambda *args, **kwargs: pytest.fail("items were encoded"))
    arguments = ["--model", model_folder, "--items", pictures]
    (tmp_path / "plain.txt").write_text("ein roter ball")
    for options, message in [
        ([], "queries is empty"),
        (["--query", " "], "query 0 is blank"),
        (["--query", "ball", "--top-k", "0"], "top_k must be at least 1, got 0"),
        (["--query", "ball", "--save-index", pictures], "is not an index"),
        (["--query-file", str(tmp_path / "plain.txt")], r"plain\.txt must hold JSON, a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.main([*arguments, *options])
    with pytest.raises(FileNotFoundError):
        search.main([*arguments, "--query-file", str(tmp_path / "none.json")])


def test_a_folder_is_encoded_now_and_asked_later(model_folder, pictures, tmp_path, capsys):
    """Large collections are encoded over night; nobody has a question yet."""
    search.main(["--model", model_folder, "--items", pictures, "--save-index", str(tmp_path / "index")])
    assert "4 items are encoded" in capsys.readouterr().out
    search.main(["--model", model_folder, "--items", str(tmp_path / "index"), "--query", "ein roter ball"])
    assert capsys.readouterr().out.count(".png") == 4


def test_a_folder_is_searched_with_the_descriptions_that_were_made_of_it(model_folder, pictures, tmp_path, caplog):
    """They come as a data set folder, in splits; the search of the folder itself must find them all."""
    for split, names in (("train", ["0.png", "2.png"]), ("validation", ["1.png"])):
        columns = {"image_id": names, "description": [f"a picture {name}" for name in names]}
        datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "made" / f"{split}-00000-of-00001.parquet"))
    rows = open_items(pictures, description_file=tmp_path / "made")
    expected = ["a picture 0.png", "a picture 1.png", "a picture 2.png", None]
    assert rows["description"] == expected and not caplog.records


def test_evaluate_prints_the_protocol_and_the_recalls_as_json(model_folder, tmp_path, capsys):
    """The output is read by programs; nothing else may be on stdout."""
    make_split().to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    output = tmp_path / "report.json"
    evaluate.main(["--model", model_folder, "--dataset", str(tmp_path), "--languages", "de", "en",
                   "--scoring", "slots", "--output", str(output)])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(output.read_text())
    assert report["protocol"]["scoring"] == "slots"
    assert report["protocol"]["split"] == "test"
    assert 0 <= report["metrics"]["de/sum_r"] <= 600


@pytest.fixture
def devices(monkeypatch):
    """Where each model embedded a text, in order."""
    seen, original = [], LeccrModel.get_text_features

    def spy(model, *args, **kwargs):
        seen.append(str(model.device))
        return original(model, *args, **kwargs)

    monkeypatch.setattr(LeccrModel, "get_text_features", spy)
    return seen


def test_search_and_evaluate_run_on_the_device_asked_for(model_folder, pictures, tmp_path, monkeypatch):
    """A GPU that nobody uses, or one that is busy with another job."""
    make_split().to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    asked, moved, to = [], [], LeccrModel.to
    monkeypatch.setattr(LeccrModel, "to", lambda model, *args: moved.append(args) or to(model, *args))
    monkeypatch.setattr(model_options, "chosen_device", lambda name: asked.append(name) or torch.device("cpu"))
    searching = ["--model", model_folder, "--items", pictures, "--query", "ein boot"]
    evaluating = ["--model", model_folder, "--dataset", str(tmp_path), "--languages", "de"]
    search.main([*searching, "--device", "cuda:1"])
    search.main(searching)
    evaluate.main([*evaluating, "--device", "cuda:1"])
    evaluate.main(evaluating)
    assert asked == ["cuda:1", None, "cuda:1", None]
    assert moved == 4 * [(torch.device("cpu"),)]


@pytest.mark.parametrize("command", ["search", "evaluate"])
@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_before_the_model_is_loaded(command, name):
    """torch tells of an assertion, after minutes of loading."""
    options = ["--items", "none", "--query", "x"] if command == "search" else ["--dataset", "none", "--languages", "de"]
    with pytest.raises(SystemExit, match=rf"device must be one of this machine, .* got '{name}' \(") as refused:
        cli.main([command, "--model", "nobody/nothing", *options, "--device", name])
    assert "\n" not in str(refused.value)


def test_the_device_is_the_one_of_the_process_unless_named(monkeypatch):
    """One rule for all commands: the GPU that a launcher gave, else the CPU."""
    monkeypatch.setattr(local_models, "process_device", lambda: torch.device("cuda", 3))
    assert local_models.chosen_device(None) == torch.device("cuda", 3)
    assert local_models.chosen_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(model_folder, pictures, devices, capsys):
    """Inputs left on the CPU stop the search; embeddings left on the GPU stop the index."""
    printed = []
    for options in ([], ["--device", "cuda"], ["--device", "cpu"]):
        search.main(["--model", model_folder, "--items", pictures, "--query", "ein boot", "--top-k", "1", *options])
        printed.append(capsys.readouterr().out)
    assert devices == ["cuda:0", "cuda:0", "cpu"]
    assert printed[0] == printed[1] == printed[2]


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_each_command_explains_itself(command, capsys):
    """`leccr X --help` must work for each X of the list, without a model."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"leccr {command}" in capsys.readouterr().out


def test_the_console_command_lists_its_commands_and_refuses_others(capsys):
    """A typo must end in the list of commands, not in a traceback."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    listing = capsys.readouterr().out
    assert all(f"  {name} " in listing for name in cli.COMMANDS)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serach"])
    assert stopped.value.code == 2


@pytest.fixture
def server(tmp_path):
    """A Hub with one model on main and another on the branch trial."""
    with hub(tmp_path / "home") as running:
        for seed, branch in ((0, None), (1, "trial")):
            model = tiny_model(description_dropout=0.1, seed=seed)
            saved = save_for_hub(model, tiny_processor(), tmp_path / "saved" / str(seed))
            push_model(saved, "owner/tiny", revision=branch, token=running.token)
        yield running


def test_a_model_is_taken_at_the_commit_branch_or_tag_asked_for(server, pictures, tmp_path, capsys):
    """A result that names no version cannot be repeated once the model is trained on."""
    commits = server.repositories["models", "owner/tiny"].branches
    data = tmp_path / "data"
    data.mkdir()
    make_split().to_parquet(str(data / "test-00000-of-00001.parquet"))
    reports = {}
    for revision in (None, "main", "trial", commits["trial"]):
        options = ["--revision", revision] if revision else []
        evaluate.main(["--model", "owner/tiny", "--dataset", str(data), "--languages", "de", *options])
        reports[revision] = json.loads(capsys.readouterr().out)
    assert reports[None] == reports["main"] and reports[None]["revision"] == commits["main"]
    assert reports["trial"] == reports[commits["trial"]] and reports["trial"]["revision"] == commits["trial"]
    assert reports["trial"]["metrics"] != reports["main"]["metrics"]

    index = str(tmp_path / "index")
    searching = ["--model", "owner/tiny", "--query", "ein boot"]
    search.main([*searching, "--items", pictures, "--revision", "trial", "--save-index", index])
    hits = capsys.readouterr().out
    search.main([*searching, "--items", index, "--revision", commits["trial"]])
    assert capsys.readouterr().out == hits
    with pytest.raises(SystemExit, match="this index was made with another model"):
        cli.main(["search", *searching, "--items", index])


def test_a_revision_that_is_not_there_is_told_in_one_line(server, model_folder):
    """A folder has no versions; it must not be loaded as if the revision was taken."""
    for name, revision, message in (
        (model_folder, "main", "revision is for models on the Hub, and .* is a folder; leave 'main' out"),
        ("owner/tiny", "nowhere", "on the Hub it cannot be read: .*nowhere"),
        ("owner/absent", "main", "there is no folder 'owner/absent', and on the Hub it cannot be read"),
    ):
        for options in (
            ["search", "--items", "none", "--query", "x"],
            ["evaluate", "--dataset", "d", "--languages", "de"],
        ):
            with pytest.raises(SystemExit, match=message) as refused:
                cli.main([*options, "--model", name, "--revision", revision])
            assert "\n" not in str(refused.value)


def test_an_adapter_is_refused_with_the_way_to_a_whole_model(server, model_folder, tmp_path):
    """An adapter has no processor, which was told as an unknown class of one."""
    adapter = get_peft_model(LeccrModel.from_pretrained(model_folder), LoraConfig(target_modules=["query", "value"]))
    adapter.save_pretrained(tmp_path / "adapter")
    api = HfApi(token=server.token)
    api.create_repo("owner/adapter")
    api.upload_folder(repo_id="owner/adapter", folder_path=tmp_path / "adapter")
    for name in (str(tmp_path / "adapter"), "owner/adapter"):
        for options in (
            ["search", "--items", "none", "--query", "x"],
            ["evaluate", "--dataset", "d", "--languages", "de"],
        ):
            with pytest.raises(SystemExit, match=f"{name} holds an adapter.*merge_and_unload.*save_for_hub"):
                cli.main([*options, "--model", name])
