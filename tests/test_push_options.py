"""What the options of a push do, by the command and by the trainer: commits, branch, privacy, token, older results."""

from pathlib import Path
from typing import Any

import pytest

from modeling_leccr.export import save_for_hub
from processing import hub_upload
from reporting.model_record import ModelRecord
from tests.hub_server import HubServer
from tests.test_push_model import REPO, commits, push, remote_files
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with results on a data set of the Hub."""
    record = ModelRecord(
        languages=("de",), settings={"dataset": "org/pets"}, metrics={"test": {"de/sum_r": 1.0, "sum_r": 1.0}}
    )
    return save_for_hub(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("saved") / "model", record=record)


def test_a_model_of_many_files_arrives_in_one_commit(server: HubServer, saved: Path) -> None:
    """Between two commits a reader would find half of the weights."""
    push(server, saved, max_shard_size="5KB")
    assert len(remote_files(server)) > hub_upload.DEFAULT_FILES_PER_COMMIT
    assert len(commits(server)) == 1


def test_a_dry_run_sees_a_private_repository_with_the_token(server: HubServer, saved: Path) -> None:
    """Without it the repository looks as if it were not there, and all would be sent again."""
    push(server, saved, private=True)
    plan = push(server, saved, dry_run=True)
    assert plan["would_send"] == {} and plan["unchanged_files"] == len(remote_files(server))


def test_results_of_an_older_push_go(server: HubServer, saved: Path, tmp_path: Path) -> None:
    """The Hub would go on to show the numbers of the older model beside the newer one."""
    push(server, saved)
    assert {".eval_results/org--pets.yaml", "metrics.json"} <= remote_files(server).keys()
    newer = save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "model")
    assert push(server, newer)["deleted_files"] == 2
    assert not {".eval_results/org--pets.yaml", "metrics.json"} & remote_files(server).keys()


def test_a_staging_folder_around_the_model_is_named_as_such(server: HubServer, saved: Path, tmp_path: Path) -> None:
    """Whoever gives the folder above the model has to learn which of the two folders is the wrong one."""
    for staging in (saved, saved.parent, saved.parent.parent):
        with pytest.raises(ValueError, match="holds the model itself"):
            push(server, saved, staging=staging)
    assert server.requests == []


@pytest.mark.parametrize("early", [True, False], ids=["push_to_hub", "called"])
def test_the_trainer_pushes_to_its_branch_of_a_private_repository(
    server: HubServer, tmp_path: Path, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial on main would be what others load, and what is public once has been read."""
    settings: dict[str, Any] = {"hub_model_id": REPO, "hub_private_repo": True, "hub_revision": "trial"}
    trainer = tiny_trainer(tmp_path / "run", tiny_model(), push_to_hub=early, hub_token=server.token, **settings)
    if early:
        found = server.repositories["models", REPO]
        assert found.private and set(found.branches) == {"main", "trial"}
    else:
        assert server.repositories == {}
    trainer.push_to_hub()
    assert server.repositories["models", REPO].private
    assert remote_files(server) == {}
    assert "model.safetensors" in remote_files(server, revision="trial")
    # The arguments of transformers' push, as its scripts give them.
    trainer.push_to_hub("Trial", False, revision="other", finetuned_from="bert", tags=["leccr"])
    assert "model.safetensors" in remote_files(server, revision="other")
    assert "record of the run and takes no ['finetuned_from', 'tags']" in caplog.text
