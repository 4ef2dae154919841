"""Tests adding, dropping and renaming tasks of a model, before and after saving and loading."""

import json

import pytest
import torch

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertForSequenceClassification, MTSBertForTokenClassification, MTSBertModel


TEXT = "Ada Perez joins Nimbus Labs in Oslo"
MOOD = {"type": "sequence_classification", "labels": ["bad", "fine", "good"]}
# One of everything: kept heads, a new one, a renamed one, renamed labels, and a dropped one.
EDIT_EVERYTHING = """
model.add_task("mood", {"type": "sequence_classification", "labels": ["bad", "fine", "good"], "hidden_size": 8})
model.rename_task("topic", "subject")
model.rename_labels("ner", {"GPE": "PLACE"})
model.rename_labels("subject", {"Business": "Economy"})
model.drop_task("tags")
"""


@pytest.fixture
def full_model(checkpoint) -> MTSBertModel:
    """A model with a task of every type: topic, ner, tags, follows, near."""
    return MTSBertModel.from_pretrained(checkpoint)


@pytest.fixture
def batch(tokenizer) -> dict[str, torch.Tensor]:
    first, second = (tokenizer([text], return_tensors="pt") for text in (TEXT, "Oslo"))
    pair = {f"pair_{name}": second[name] for name in ("input_ids", "attention_mask")}
    return {"input_ids": first["input_ids"], "attention_mask": first["attention_mask"], **pair}


def in_fresh_memory(model) -> None:
    """Weights that were read from a file may lie where a matrix product rounds differently, in the tenth digit."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@pytest.fixture
def logits_of(batch):
    def logits_of(model) -> dict[str, torch.Tensor]:
        in_fresh_memory(model)
        with torch.no_grad():
            return model(**batch).logits

    return logits_of


def state_of(model) -> tuple:
    """All that an edit could change, to compare."""
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    return json.dumps(model.config.to_dict(), default=str), list(model.heads), weights


@pytest.fixture
def unchanged(full_model):
    """Asserts at the end of a test that the model is what it was."""
    config, heads, weights = state_of(full_model)
    yield
    config_now, heads_now, weights_now = state_of(full_model)
    assert (config_now, heads_now) == (config, heads)
    assert weights_now.keys() == weights.keys()
    assert all(torch.equal(weights_now[name], weight) for name, weight in weights.items())


def test_a_new_task_answers_beside_the_others(full_model, logits_of):
    before = logits_of(full_model)
    full_model.add_task("mood", MOOD)
    after = logits_of(full_model)
    assert list(after) == [*before, "mood"]
    assert after["mood"].shape == (1, 3)
    assert all(torch.equal(after[task], before[task]) for task in before)
    assert full_model.config.tasks["mood"] == MOOD
    assert full_model.config.tasks["mood"] is not MOOD


def test_a_new_head_begins_as_those_of_a_new_model(full_model):
    full_model.config.initializer_range = 0.5
    full_model.add_task("mood", {**MOOD, "labels": [f"label {n}" for n in range(500)], "hidden_size": 100})
    head = full_model.heads["mood"]
    for layer in (head.hidden, head.classifier):
        assert layer.weight.std().item() == pytest.approx(0.5, rel=0.05)
        assert not layer.bias.any()
        assert layer.weight.requires_grad
    assert head.dropout.p == full_model.config.head_dropout


@pytest.mark.parametrize("training", [True, False])
def test_a_new_head_has_the_type_and_mode_of_the_model(full_model, training):
    full_model.to(torch.bfloat16).train(training)
    full_model.add_task("mood", MOOD)
    head = full_model.heads["mood"]
    assert {parameter.dtype for parameter in head.parameters()} == {torch.bfloat16}
    assert all(module.training == training for module in head.modules())


def test_a_new_head_is_where_the_model_is(full_model):
    full_model.to("meta")
    full_model.add_task("mood", MOOD)
    assert full_model.heads["mood"].classifier.weight.device.type == "meta"


@pytest.mark.parametrize("labels", [["ORG", "LAW"], ("ORG", "LAW"), ["O", "B-ORG", "I-ORG", "B-LAW", "I-LAW"]])
def test_entity_types_stand_for_their_tags(full_model, logits_of, labels):
    full_model.add_task("law", {"type": "token_classification", "labels": labels})
    assert full_model.config.tasks["law"]["labels"] == ["O", "B-ORG", "I-ORG", "B-LAW", "I-LAW"]
    assert logits_of(full_model)["law"].shape[2] == 5


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ({"type": "pair_classification", "labels": ["no", "maybe", "yes"]}, (1, 3)),
        ({"type": "pair_similarity", "score_range": [0, 1]}, (1,)),
        ({**MOOD, "multi_label": True}, (1, 3)),
    ],
)
def test_a_task_of_any_type_can_be_added(full_model, logits_of, task, shape):
    full_model.add_task("new", task)
    assert logits_of(full_model)["new"].shape == shape


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("topic", MOOD, "The model already has a task 'topic'; drop that one, or choose another name"),
        ("Mood", MOOD, "Task 'Mood': a task's name is lower-case letters"),
        ("embedding", MOOD, "Task 'embedding': this name has a meaning of its own"),
        ("mood", "sequence_classification", "Task 'mood': needs 'labels', a list of non-empty strings; got None"),
        ("mood", "classification", "Task 'mood': a task is a mapping with a 'type', one of"),
        ("mood", ["bad", "good"], "Task 'mood': a task is a mapping with a 'type', one of"),
        ("mood", {**MOOD, "lables": []}, r"Task 'mood': unknown keys \['lables'\]"),
        ("law", {"type": "token_classification", "labels": "LAW"}, "Task 'law': needs 'labels', a list of non-empty"),
        (
            "law",
            {"type": "token_classification", "labels": ["O", "LAW"]},
            "Task 'law': Labels of a token task are 'O'",
        ),
    ],
)
def test_a_task_that_cannot_be_added_is_refused(full_model, unchanged, name, settings, message):
    with pytest.raises(ValueError, match=message):
        full_model.add_task(name, settings)


def test_a_dropped_task_is_gone_and_the_others_answer_as_before(full_model, logits_of):
    before = logits_of(full_model)
    full_model.drop_task("tags")
    after = logits_of(full_model)
    assert (
        list(after)
        == list(full_model.heads)
        == list(full_model.config.tasks)
        == ["topic", "ner", "follows", "near", "fits", "grade"]
    )
    assert all(torch.equal(after[task], before[task]) for task in after)
    assert not [name for name in full_model.state_dict() if "tags" in name]


def test_the_only_task_and_tasks_that_are_not_there_cannot_be_dropped(full_model):
    with pytest.raises(ValueError, match=r"The model has no task 'mood'; it has \['topic', 'ner', 'tags',"):
        full_model.drop_task("mood")
    for name in ("ner", "tags", "follows", "near", "fits", "grade"):
        full_model.drop_task(name)
    with pytest.raises(ValueError, match="'topic' is the only task of this model"):
        full_model.drop_task("topic")
    assert list(full_model.heads) == list(full_model.config.tasks) == ["topic"]


def test_a_renamed_task_keeps_its_place_its_head_and_its_mode(full_model, logits_of):
    before = logits_of(full_model)
    full_model.heads["ner"].train()  # in training, while the rest is frozen
    head = full_model.heads["ner"]
    full_model.rename_task("ner", "names")
    assert (
        list(full_model.config.tasks)
        == list(full_model.heads)
        == ["topic", "names", "tags", "follows", "near", "fits", "grade"]
    )
    assert full_model.heads["names"] is head
    assert head.training
    assert not full_model.heads["topic"].training
    full_model.eval()
    after = logits_of(full_model)
    assert torch.equal(after["names"], before["ner"])
    assert all(torch.equal(after[task], before[task]) for task in before if task != "ner")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mood", "feeling", "The model has no task 'mood'"),
        ("topic", "ner", "The model already has a task 'ner'"),
        ("topic", "topic", "The model already has a task 'topic'"),
        ("topic", "The topic", "Task 'The topic': a task's name is lower-case letters"),
    ],
)
def test_a_task_that_cannot_be_renamed_is_refused(full_model, unchanged, old, new, message):
    with pytest.raises(ValueError, match=message):
        full_model.rename_task(old, new)


def test_renamed_labels_keep_their_order_their_weights_and_the_other_settings(full_model, logits_of):
    full_model.config.tasks["tags"]["class_weights"] = [1.0, 2.0, 3.0]
    before, tasks = logits_of(full_model), dict(full_model.config.tasks)
    full_model.rename_labels("tags", {"c": "new", "a": "c"})
    assert full_model.config.tasks["tags"] == {**tasks["tags"], "labels": ["c", "b", "new"]}
    full_model.rename_labels("topic", {"Business": "Sports", "Sports": "Business"})  # the two swapped
    assert full_model.config.tasks["topic"]["labels"] == ["Sports", "Business"]
    assert all(torch.equal(after, before[task]) for task, after in logits_of(full_model).items())


def test_an_entity_type_is_renamed_with_both_of_its_tags(full_model):
    full_model.add_task("law", {"type": "token_classification", "labels": ["O", "I-X", "B-X", "B-LAW", "I-LAW"]})
    full_model.rename_labels("law", {"X": "B-2"})
    assert full_model.config.tasks["law"]["labels"] == ["O", "I-B-2", "B-B-2", "B-LAW", "I-LAW"]
    MTSBertConfig(tasks=full_model.config.tasks)


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        ("mood", {"a": "x"}, "The model has no task 'mood'"),
        ("near", {"a": "x"}, "Task 'near' is a pair_similarity task, which has no labels"),
        ("tags", {"a": "x", "d": "y"}, r"Task 'tags' has no labels \['d'\]; it has \['a', 'b', 'c'\]"),
        ("ner", {"B-GPE": "B-PLACE"}, r"Task 'ner' has no entity types \['B-GPE'\]; it has \['GPE'\]"),
        ("tags", {"a": "b"}, r"Task 'tags': two labels would have the same name in \['b', 'b', 'c'\]"),
        ("tags", {"a": ""}, r"Task 'tags': the new names \[''\] are not non-empty strings"),
        ("ner", {"GPE": 1}, r"Task 'ner': the new names \[1\] are not non-empty strings"),
    ],
)
def test_labels_that_cannot_be_renamed_are_refused(full_model, unchanged, task, names, message):
    with pytest.raises(ValueError, match=message):
        full_model.rename_labels(task, names)


@pytest.mark.parametrize("hidden_size", [None, 6])
def test_a_cut_embedding_reaches_every_task_on_pairs(encoder_folder, batch, tmp_path, hidden_size):
    """The head on (u, v, |u - v|) goes on with the weights of the numbers that are left."""
    follows = {"type": "pair_classification", "labels": ["no", "yes"], "hidden_size": hidden_size}
    tasks = {"follows": follows, "near": {"type": "pair_similarity", "score_range": [0, 1]}}
    if hidden_size is None:
        del follows["hidden_size"]
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
    whole = model(**batch)
    first = model.heads["follows"].hidden or model.heads["follows"].classifier
    weight = first.weight.detach().clone()
    model.set_embedding_size(5)
    cut = model(**batch)
    u, v = (torch.nn.functional.normalize(of[:, :5], dim=-1) for of in (whole.pooler_output, whole.pair_pooler_output))
    assert torch.allclose(cut.pooler_output, u, atol=1e-6)
    assert torch.allclose(cut.pair_pooler_output, v, atol=1e-6)
    assert torch.allclose(cut.logits["near"], (u * v).sum(dim=-1), atol=1e-6)
    inputs = torch.zeros(1, 96)
    for place, part in enumerate((u, v, (u - v).abs())):
        inputs[:, 32 * place : 32 * place + 5] = part
    first.weight, first.in_features = torch.nn.Parameter(weight), 96
    scale = 32**0.5  # of the head as it was trained
    assert torch.allclose(cut.logits["follows"], model.heads["follows"](inputs * scale), atol=1e-5)


def test_a_cut_embedding_is_kept_by_saving_and_loading(full_model, batch, tmp_path):
    full_model.set_embedding_size(8)
    full_model.add_task("again", {"type": "pair_classification", "labels": ["no", "yes"]})
    full_model.save_pretrained(tmp_path)
    loaded, info = MTSBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.embedding_size == 8
    for one, other in zip(loaded(**batch).to_tuple(), full_model.eval()(**batch).to_tuple(), strict=True):
        assert torch.is_tensor(one) is False or torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("size", "is_kept"), [(8, False), (31, False), (32, True)])
def test_a_cut_embedding_drops_what_was_fitted_to_scores_of_pairs(full_model, size, is_kept):
    fitted = {"temperature": 0.5, "smoothing": 0.1}
    tasks = full_model.config.tasks
    pairs = full_model.config.tasks_of_type("pair_classification")
    assert pairs
    full_model.config.tasks = {task: settings | fitted for task, settings in tasks.items()}
    cuts = {task: {tasks[task]["labels"][0]: 0.7} for task in pairs}
    full_model.config.tasks |= {task: full_model.config.tasks[task] | {"thresholds": cuts[task]} for task in pairs}
    full_model.set_embedding_size(size)
    for task, settings in full_model.config.tasks.items():
        expected = tasks[task] | fitted | ({"thresholds": cuts[task]} if task in pairs else {})
        assert settings == (expected if is_kept or task not in pairs else tasks[task]), task


@pytest.mark.parametrize("size", [0, 33, 1.5])
def test_an_embedding_cannot_be_cut_to_more_than_it_is(full_model, unchanged, size):
    with pytest.raises(ValueError, match=r"The embedding has 32 numbers, and can be cut to 1 to 32, not to"):
        full_model.set_embedding_size(size)


def test_a_view_follows_its_head(checkpoint, batch):
    view = MTSBertForSequenceClassification.from_pretrained(checkpoint)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before = view(**inputs).logits
    view.rename_task("topic", "subject")
    view.rename_labels("subject", {"Business": "Economy"})
    view.rename_labels("tags", {"a": "x"})
    view.rename_task("tags", "marks")
    assert view.head == "subject"
    assert view.config.id2label == {0: "Economy", 1: "Sports"}
    assert view.config.label2id == {"Economy": 0, "Sports": 1}
    assert view.num_labels == view.config.num_labels == 2
    view.drop_task("marks")
    assert torch.equal(view(**inputs).logits, before)
    with pytest.raises(ValueError, match="answers with the head 'subject'; open the checkpoint with another `head`"):
        view.drop_task("subject")
    assert "subject" in view.config.tasks


@pytest.mark.parametrize(
    ("view_class", "task"), [(MTSBertForSequenceClassification, "subject"), (MTSBertForTokenClassification, "ner")]
)
def test_every_edit_is_kept_by_saving_and_loading(full_model, logits_of, batch, tmp_path, view_class, task):
    exec(EDIT_EVERYTHING, {"model": full_model})
    full_model.save_pretrained(tmp_path)
    again, info = MTSBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    expected, found = logits_of(full_model), logits_of(again)
    assert again.config.tasks == full_model.config.tasks
    assert list(again.config.tasks) == ["subject", "ner", "follows", "near", "fits", "grade", "mood"]
    assert again.config.tasks["ner"]["labels"] == ["O", "B-PLACE", "I-PLACE"]
    assert found.keys() == expected.keys() == set(again.config.tasks)
    assert all(torch.equal(found[name], logits) for name, logits in expected.items())
    view = view_class.from_pretrained(tmp_path)
    in_fresh_memory(view)
    assert torch.equal(view(batch["input_ids"], batch["attention_mask"]).logits, expected[task])
    assert list(view.config.id2label.values()) == full_model.config.tasks[task]["labels"]


def test_an_edit_of_a_view_is_kept_for_the_whole_checkpoint(checkpoint, tmp_path):
    view = MTSBertForSequenceClassification.from_pretrained(checkpoint, head="tags")
    view.rename_labels("tags", {"a": "x"})
    view.add_task("mood", MOOD)
    view.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "x", "1": "b", "2": "c"}
    again = MTSBertModel.from_pretrained(tmp_path)
    assert again.config.tasks["mood"] == MOOD
    assert torch.equal(again.heads["mood"].classifier.weight, view.heads["mood"].classifier.weight)


@pytest.mark.parametrize(
    ("head", "edit"),
    [
        ("topic", lambda model: model.rename_labels("topic", {"Sports": "Games"})),
        ("topic", lambda model: model.drop_task("topic")),
        ("tags", lambda model: model.drop_task("tags")),
        ("grade", lambda model: model.rename_task("grade", "stars")),
        ("ner", lambda model: model.rename_labels("ner", {"GPE": "PLACE"})),
        ("ner", lambda model: model.drop_task("topic")),
    ],
)
def test_what_a_view_has_saved_is_edited_like_any_checkpoint(checkpoint, tmp_path, head, edit):
    """The labels of its head, which a view writes beside those of the tasks, are not taken for another wish."""
    kind = MTSBertForTokenClassification if head == "ner" else MTSBertForSequenceClassification
    kind.from_pretrained(checkpoint, head=head).save_pretrained(tmp_path / "view")
    plain = MTSBertModel.from_pretrained(checkpoint)
    for model, name in ((MTSBertModel.from_pretrained(tmp_path / "view"), "edited"), (plain, "expected")):
        edit(model)
        model.save_pretrained(tmp_path / name)
    for view_of in (MTSBertForSequenceClassification, MTSBertForTokenClassification):
        tasks = [task for kind in view_of.task_types for task in plain.config.tasks_of_type(kind)]
        for task in tasks:
            found, expected = (
                view_of.from_pretrained(tmp_path / name, head=task).config for name in ("edited", "expected")
            )
            assert (found.id2label, found.tasks) == (expected.id2label, expected.tasks)
            assert list(found.id2label.values()) == plain.config.tasks[task].get("labels", [task])


def test_labels_that_are_asked_for_replace_those_that_a_view_has_saved(checkpoint, tmp_path):
    MTSBertForSequenceClassification.from_pretrained(checkpoint, head="tags").save_pretrained(tmp_path)
    asked = {"num_labels": 7, "ignore_mismatched_sizes": True}
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path, head="tags", **asked)
    assert list(view.config.id2label.values()) == [f"LABEL_{number}" for number in range(7)]
    assert view.heads["tags"].classifier.out_features == 7
    view.save_pretrained(tmp_path / "seven")
    again = MTSBertForSequenceClassification.from_pretrained(tmp_path / "seven", head="tags")
    assert again.config.id2label == view.config.id2label
    named = {"id2label": {0: "u", 1: "v", 2: "w"}, "label2id": {"u": 0, "v": 1, "w": 2}}
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path, head="tags", **named)
    assert view.config.tasks["tags"]["labels"] == ["u", "v", "w"]


def test_a_checkpoint_is_edited_and_opened_without_the_clone(checkpoint, tmp_path, run_elsewhere):
    """Each in an interpreter of its own; all that they have is the folder."""
    edit = f"""
import torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
{EDIT_EVERYTHING}
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
model.save_pretrained({str(tmp_path / "edited")!r})
tokenizer.save_pretrained({str(tmp_path / "edited")!r})
with torch.no_grad():
    torch.save(model(**tokenizer({TEXT!r}, return_tensors="pt")).logits, {str(tmp_path / "expected.pt")!r})
"""
    load = f"""
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
model, info = AutoModel.from_pretrained({str(tmp_path / "edited")!r}, trust_remote_code=True, output_loading_info=True)
assert not any(info.values()), info
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / "edited")!r}, trust_remote_code=True)
with torch.no_grad():
    found = model(**tokenizer({TEXT!r}, return_tensors="pt")).logits
expected = torch.load({str(tmp_path / "expected.pt")!r})
assert list(found) == list(expected) == ["subject", "ner", "grade", "mood"], list(found)
assert all(torch.equal(found[task], logits) for task, logits in expected.items())
answer = pipeline("multi-task", model={str(tmp_path / "edited")!r}, trust_remote_code=True)({TEXT!r})
assert list(answer["subject"]["scores"]) == ["Economy", "Sports"], answer
assert {{entity["label"] for entity in answer["ner"]}} <= {{"PLACE"}}, answer
"""
    for script in (edit, load):
        run_elsewhere(script)


@pytest.mark.parametrize(
    ("view_class", "task", "names"),
    [
        (MTSBertForSequenceClassification, "topic", {1: "sport", 0: "economy"}),
        (MTSBertForTokenClassification, "ner", {0: "O", 1: "B-PLACE", 2: "I-PLACE"}),
    ],
)
def test_names_that_are_assigned_to_the_config_of_a_view_are_saved(checkpoint, tmp_path, view_class, task, names):
    view = view_class.from_pretrained(checkpoint)
    view.config.tasks[task]["thresholds"] = {"Sports": 0.7} if task == "topic" else {"GPE": 0.7}
    view.config.id2label = names
    view.save_pretrained(tmp_path)
    for opened in (view, view_class.from_pretrained(tmp_path), MTSBertModel.from_pretrained(tmp_path)):
        assert opened.config.tasks[task]["labels"] == [names[index] for index in range(len(names))]
        assert opened.config.tasks[task]["thresholds"] == {"sport" if task == "topic" else "PLACE": 0.7}
    assert view_class.from_pretrained(tmp_path).config.id2label == dict(sorted(names.items()))
