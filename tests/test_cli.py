"""The console command for all scripts."""

import pytest

from hub_scripts import cli


def test_an_error_of_the_user_is_one_line(tmp_path):
    """A stack trace hides the message that says what to do."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["read_dataset", "folder", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert str(exit_info.value).startswith("leccr read_dataset: ") and "is not a folder" in str(exit_info.value)


@pytest.mark.parametrize(
    ("config", "named"),
    [(None, "config.json"), ("no JSON", "config.json"), ('{"model_type": "leccr", "num_slots": "four"}', "num_slots")],
)
def test_a_model_that_cannot_be_loaded_needs_no_stack_trace(tmp_path, config: str | None, named: str):
    """The clients of the Hub raise kinds of errors of their own, beside ValueError."""
    (tmp_path / "model").mkdir()
    if config is not None:
        (tmp_path / "model" / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["search", "--model", str(tmp_path / "model"), "--items", str(tmp_path), "--query", "ein Hund"])
    assert str(exit_info.value).startswith("leccr search: ") and named in str(exit_info.value)


def test_each_command_is_listed_with_its_line(capsys: pytest.CaptureFixture[str]):
    """A command that is not listed does not exist for whoever asks for help."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed and line in listed for name, (_, line) in cli.COMMANDS.items())


def test_an_interrupted_command_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch):
    """Forty lines of stack look like a loss; nothing is lost."""

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    with pytest.raises(SystemExit, match=r"leccr describe: stopped\. What is finished is kept"):
        cli.main(["describe"])
