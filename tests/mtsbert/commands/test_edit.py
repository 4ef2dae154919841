"""Tests that `mtsbert edit` changes the tasks of a saved checkpoint and nothing else."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mtsbert.commands.edit import main
from mtsbert.commands.export import export_encoder, export_onnx
from mtsbert.exports.pipeline import OnnxPipeline, load_pipeline
from mtsbert.results.unfinished import new_folder


MOOD = json.dumps({"type": "sequence_classification", "labels": ["bad", "good"]})


def run(checkpoint, output, *edits: str) -> None:
    main(["--model", str(checkpoint), "--output", str(output), *edits])


def test_changes_are_made_in_order_and_the_folder_opens_elsewhere(checkpoint, tmp_path, run_elsewhere, capsys):
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
    tasks, answered = run_elsewhere(code).splitlines()[-2:]
    assert json.loads(tasks) == {
        "subject": ["Money", "Games"],
        "ner": ["O", "B-PLACE", "I-PLACE"],
        "tags": ["a", "b", "c"],
        "follows": ["no", "yes"],
        "fits": None,
        "grade": None,
        "topic": ["bad", "good"],
    }
    assert answered == str(
        ["embedding", "fits", "follows", "grade", "ner", "pair_embedding", "subject", "tags", "topic"]
    )
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
        (["--embedding_size", "half"], "--embedding_size 'half' is not a whole number"),
        (["--embedding_size", "33"], "The embedding has 32 numbers, and can be cut to 1 to 32, not to 33"),
    ],
)
def test_what_cannot_be_changed_leaves_nothing_behind(checkpoint, tmp_path, edits, message):
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path / "edited", *edits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_smaller_embedding_is_its_first_numbers_through_every_door(checkpoint, tmp_path, capsys, close):
    run(checkpoint, tmp_path / "edited", "--embedding_size", "8")
    assert "the sentence embedding has 8 numbers" in capsys.readouterr().out
    before, after = (load_pipeline(str(folder)) for folder in (checkpoint, tmp_path / "edited"))
    texts = ["Ada Perez joins Nimbus Labs in Oslo", ("Lima", "Oslo beat Lima in the final")]
    whole, cut = before(texts), after(texts)
    expected = [torch.nn.functional.normalize(torch.tensor(answer["embedding"][:8]), dim=0) for answer in whole]
    for answer, vector in zip(cut, expected, strict=True):
        assert torch.allclose(torch.tensor(answer["embedding"]), vector, atol=1e-6)
    assert cut[0]["topic"]["scores"] == pytest.approx(whole[0]["topic"]["scores"])
    second = torch.tensor(whole[1]["pair_embedding"][:8])
    assert cut[1]["near"]["score"] == pytest.approx(torch.cosine_similarity(expected[1], second, dim=0).item())
    export_onnx(str(tmp_path / "edited"), tmp_path / "onnx")
    assert close(OnnxPipeline(tmp_path / "onnx")(texts), cut)
    export_encoder(str(tmp_path / "edited"), tmp_path / "encoder")
    vectors = SentenceTransformer(str(tmp_path / "encoder")).encode(texts[0])
    assert vectors == pytest.approx(cut[0]["embedding"], abs=1e-5)


FITTED = {
    "follows": {"temperature": 2.0, "thresholds": {"yes": 0.9}},
    "topic": {"temperature": 3.0, "thresholds": {"Sports": 0.8}},
}


@pytest.fixture
def calibrated(checkpoint, tmp_path_factory):
    """The checkpoint with calibrated scores and thresholds of a task on pairs and of one on texts."""
    folder = tmp_path_factory.mktemp("calibrated") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    for task, settings in FITTED.items():
        config["tasks"][task].update(settings)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("size", [8, 31])
def test_a_smaller_embedding_drops_what_was_fitted_to_scores_of_pairs_and_says_so(calibrated, tmp_path, capsys, size):
    run(calibrated, tmp_path / "edited", "--embedding_size", str(size))
    tasks = json.loads((tmp_path / "edited" / "config.json").read_text())["tasks"]
    assert not {"temperature", "thresholds"} & set(tasks["follows"])
    assert tasks["topic"].items() >= FITTED["topic"].items()  # it does not read the embedding
    told = "is gone: temperature and thresholds of task 'follows'"
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "edited" / "README.md").read_text()


@pytest.mark.parametrize("edits", [["--embedding_size", "32"], ["--rename_task", "near", "close"]])
def test_an_edit_that_leaves_the_scores_of_pairs_alone_keeps_what_was_fitted_to_them(
    calibrated, tmp_path, capsys, edits
):
    run(calibrated, tmp_path / "edited", *edits)
    tasks = json.loads((tmp_path / "edited" / "config.json").read_text())["tasks"]
    assert all(tasks[task].items() >= settings.items() for task, settings in FITTED.items())
    assert "is gone:" not in capsys.readouterr().out


def test_a_folder_that_exists_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "edited").mkdir()
    with pytest.raises(ValueError, match="edited exists already"):
        run(checkpoint, tmp_path / "edited", "--drop_task", "near")


def test_two_processes_do_not_write_into_one_folder(checkpoint, tmp_path):
    killed = tmp_path / ".edited.partial" / "of_a_process"
    killed.mkdir(parents=True)
    (killed / "that").write_text("was killed")
    (tmp_path / ".edited.partial" / "too").write_text("")
    with new_folder(tmp_path / "edited") as folder:
        (folder / "one").write_text("")
        with pytest.raises(ValueError, match=r"Another process is writing .*edited"):
            run(checkpoint, tmp_path / "edited", "--drop_task", "near")
        (folder / "two").write_text("")
    assert sorted(path.name for path in (tmp_path / "edited").iterdir()) == ["one", "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]
