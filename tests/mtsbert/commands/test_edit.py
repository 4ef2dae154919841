"""Tests that `mtsbert edit` changes the tasks of a saved checkpoint and nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mtsbert.commands.edit import main


MOOD = json.dumps({"type": "sequence_classification", "labels": ["bad", "good"]})


def run(checkpoint, output, *edits: str) -> None:
    main(["--model", str(checkpoint), "--output", str(output), *edits])


def test_changes_are_made_in_order_and_the_folder_opens_elsewhere(checkpoint, tmp_path, capsys):
    run(
        checkpoint, tmp_path / "edited",
        *("--rename_task", "topic", "subject"),
        *("--rename_labels", "subject", "Business=Money", "Sports=Games"),
        *("--add_task", "topic", MOOD),
        *("--rename_labels", "ner", "GPE=PLACE"),
        *("--drop_task", "near"),
    )  # fmt: skip
    code = (
        "from transformers import pipeline; import json\n"
        "ask = pipeline('multi-task', model='edited', trust_remote_code=True)\n"
        "print(json.dumps({name: task.get('labels') for name, task in ask.model.config.tasks.items()}))\n"
        "print(sorted(ask(('Lima', 'Oslo'))))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    tasks, answered = done.stdout.splitlines()[-2:]
    assert json.loads(tasks) == {
        "subject": ["Money", "Games"],
        "ner": ["O", "B-PLACE", "I-PLACE"],
        "tags": ["a", "b", "c"],
        "follows": ["no", "yes"],
        "topic": ["bad", "good"],
    }
    assert answered == str(["embedding", "follows", "ner", "pair_embedding", "subject", "tags", "topic"])
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "edited"))
    renamed = {name.replace("heads.topic.", "heads.subject."): weight for name, weight in before.items()}
    assert all(torch.equal(after[name], weight) for name, weight in renamed.items() if "heads.near" not in name)
    assert {name for name in after if name not in renamed} == {name for name in after if "heads.topic" in name}
    card = (tmp_path / "edited" / "README.md").read_text()
    assert "- task 'topic' is called 'subject' now" in card
    assert "Business → Money" in card
    assert "is new, and its head is not trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "Name a change: --add_task"),
        (["--drop_task", "mood"], "'mood'"),
        (["--rename_labels", "topic", "Business"], "--rename_labels 'Business': write OLD=NEW"),
        (["--rename_labels", "topic"], "name the labels as well"),
        (["--add_task", "mood", "{"], "--add_task is not JSON"),
        (["--add_task", "mood", "sequence_classification"], "Task 'mood': needs 'labels'"),
        (["--add_task", "topic", MOOD], "'topic'"),
    ],
)
def test_what_cannot_be_changed_leaves_nothing_behind(checkpoint, tmp_path, edits, message):
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "edited", *edits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "edited").mkdir()
    with pytest.raises(ValueError, match="edited exists already"):
        run(checkpoint, tmp_path / "edited", "--drop_task", "near")
