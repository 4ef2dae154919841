"""Tests that a model learns the answers of its teacher: which these are, what is learned, and what is refused."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.features import NO_ROW, ROW, build_features
from mtsbert.distillation.teacher import AnswerCollator, Teacher
from mtsbert.network.embedding_targets import ANSWERS
from mtsbert.network.feature_cache import PLACE
from mtsbert.training.trainer import MTSBertTrainer
from run_mtl import main
from tests.mtsbert.conftest import SMALL
from tests.mtsbert.rows import examples_of
from tests.mtsbert.training.test_distillation import ends_of
from tests.mtsbert.training.test_trainer import gradients, without_dropout


@pytest.fixture
def teacher(layered_model):
    """Another model than `model`, sure of its answers, whose tasks have layers of their own."""
    set_seed(5)
    for weight in layered_model.encoder.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    for head in layered_model.heads.values():
        torch.nn.init.normal_(head.classifier.weight, std=0.5)
    return layered_model.eval()


@pytest.fixture
def teacher_folder(teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def taught(teacher_folder, tmp_path):
    """Arguments of a run with the teacher."""
    return {"teacher": str(teacher_folder), "feature_cache_dir": str(tmp_path / "cache")}


def logits_of(teacher, tokenizer, text: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return teacher(**tokenizer(text, return_tensors="pt")).logits


def test_the_answers_are_those_of_the_teacher_with_padding_and_without(
    trainer_of, teacher, taught, tokenizer, examples
):
    trainer = trainer_of(per_device_eval_batch_size=3, **taught)
    answers = trainer.answers_of(trainer.train_dataset).batch([2, 0, 4])
    for row, place in enumerate([2, 0, 4]):
        expected = logits_of(teacher, tokenizer, examples[place]["text"])
        assert torch.allclose(answers["topic"][row], expected["topic"][0].log_softmax(dim=-1), atol=2e-3)
        tags = expected["ner"][0].log_softmax(dim=-1)
        assert torch.allclose(answers["ner"][row, 1 : len(tags) - 1], tags[1:-1], atol=4e-3)
        assert answers["ner"][row, 0].isnan().all()  # [CLS]
        assert answers["ner"][row, len(tags) - 1 :].isnan().all()  # [SEP] and padding


def test_the_order_of_labels_is_that_of_the_student(trainer_of, teacher, taught, tokenizer, examples):
    answers = trainer_of(**taught).answers_of(trainer_of(**taught).train_dataset).batch([0])
    teacher.config.tasks["topic"]["labels"].reverse()
    teacher.save_pretrained(taught["teacher"])
    reversed_answers = trainer_of(**taught).answers_of(trainer_of(**taught).train_dataset).batch([0])
    assert torch.equal(reversed_answers["topic"], answers["topic"].flip(-1))
    assert torch.equal(reversed_answers["ner"].nan_to_num(), answers["ner"].nan_to_num())


def test_another_teacher_does_not_get_the_answers_of_the_first(trainer_of, teacher, taught):
    trainer = trainer_of(**taught)
    before = trainer.answers_of(trainer.train_dataset).batch([0])
    teacher.heads["topic"].classifier.bias.data += torch.tensor([1.0, -1.0])
    teacher.save_pretrained(taught["teacher"])
    trainer = trainer_of(**taught)
    after = trainer.answers_of(trainer.train_dataset).batch([0])
    assert not torch.equal(after["topic"], before["topic"])
    assert torch.equal(after["ner"].nan_to_num(), before["ner"].nan_to_num())


def expected_loss(trainer, teacher, tokenizer, model, examples, rows) -> torch.Tensor:
    """By hand: the labels' losses, and the divergences from the teacher's probabilities at their temperatures."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    output = model.train()(**batch)
    of_topic, of_ner, held = [], [], []
    for row in rows:
        logits = logits_of(teacher, tokenizer, examples[row]["text"])
        length = logits["ner"].shape[1]
        of_topic.append(divergence(logits["topic"], output.logits["topic"][row][None], 2.0))
        of_ner.append(divergence(logits["ner"][0, 1:-1], output.logits["ner"][row, 1 : length - 1], 4.0))
        with torch.no_grad():
            target = teacher(**tokenizer(examples[row]["text"], return_tensors="pt")).pooler_output
        held.append(1 - F.cosine_similarity(output.pooler_output[row][None], target, dim=-1))
    return output.loss + 0.5 * torch.cat(of_topic).mean() + torch.cat(of_ner).mean() + 3.0 * torch.cat(held).mean()


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    p, q = (logits.div(temperature).log_softmax(dim=-1) for logits in (teacher, student))
    return (p.exp() * (p - q)).sum(dim=-1) * temperature**2


SETTINGS = {
    "max_grad_norm": 0.0,
    "distillation_weights": {"topic": 0.5},
    "distillation_temperatures": {"ner": 4.0},
    "embedding_distillation": 3.0,
}


@pytest.mark.parametrize(("split", "padding_free"), [((8, 1), True), ((8, 1), False), ((3, 3), True)])
def test_the_loss_is_a_mean_over_the_answers_of_the_whole_step(
    trainer_of, model, teacher, taught, tokenizer, examples, split, padding_free
):
    """Two of the rows have no label of one task, and learn from the teacher all the same."""
    model = without_dropout(model)
    batch_size, accumulation = split
    trainer = trainer_of(
        of=copy.deepcopy(model), per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        padding_free=padding_free, **SETTINGS, **taught,
    )  # fmt: skip
    found = gradients(trainer)
    expected_loss(trainer, teacher, tokenizer, model, examples, range(8)).backward()
    for name, parameter in model.named_parameters():
        difference = (found[name] - parameter.grad).abs().max()
        assert difference < 1e-7 + 2e-3 * parameter.grad.abs().max(), name  # answers are kept in 16 bits


def test_accumulated_micro_batches_give_the_gradients_of_one_batch(trainer_of, model, taught):
    model, found = without_dropout(model), []
    for size in (8, 2):
        batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        found.append(gradients(trainer_of(of=copy.deepcopy(model), **batches, **SETTINGS, **taught)))
    whole, pieces = found
    assert set(whole) == set(pieces) == {name for name, _ in model.named_parameters()}
    for name in whole:
        assert torch.allclose(whole[name], pieces[name], atol=1e-6), name


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_embeddings": True, "num_frozen_layers": 1, "feature_cache": True, "feature_cache_dtype": "fp32"},
        {"freeze_encoder": True},
        {"precision": "bf16"},
        {"loss_balancing": "uncertainty"},
        {"embedding_distillation": 2.0, "embedding_distillation_parts": 1.0},
        {"feature_cache_gb": 1e-9},  # nothing fits on the disk
    ],
)
def test_a_model_comes_nearer_to_its_teacher_whatever_makes_batches(trainer_of, model, taught, settings):
    settings |= {"task_weights": {"topic": 0.0, "ner": 0.0}}  # labels would draw it elsewhere
    trainer = trainer_of(
        of=without_dropout(model), num_train_epochs=10, per_device_train_batch_size=4, **settings, **taught
    )
    trainer.train()
    for task in ("topic", "ner"):
        name = f"{task}_distillation_loss"
        losses = [line[name] for line in trainer.state.log_history if name in line]
        assert sum(losses[-4:]) < 0.8 * sum(losses[:4]), task
    assert trainer.model.config.distilled_from == "teacher"


def test_texts_without_any_label_learn_from_the_teacher(recipe, taught, tmp_path, caplog):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"body": f"Lima hosts race {number}"}) for number in range(6)))
    datasets = {"texts": {"files": {"train": str(texts)}, "columns": {"body": "text"}}}
    start = {"encoder_name_or_path": None, "model_name_or_path": taught["teacher"], "tasks": None}
    with pytest.raises(ValueError, match="or learn from its texts alone with `teacher` or `embedding_distillation`"):
        main(["--config", str(recipe(datasets=datasets, **start))])
    metrics = main(["--config", str(recipe(datasets=datasets, num_layers=1, num_train_epochs=3, **start, **taught))])
    assert metrics["train_loss"] > 0
    assert "these heads stay as they are" not in caplog.text  # as they do without labels and without a teacher


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_without_any_label_trains_heads_and_layers_of_tasks(
    trainer_of, examples, tasks, tokenizer, teacher, taught, accumulation
):
    rows = examples_of([{"text": row["text"]} for row in examples], tasks)
    features = build_features(rows, tasks, tokenizer, max_length=32, split="train")[0]
    student = copy.deepcopy(teacher)
    for weight in student.parameters():
        weight.data *= 1.1
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    trainer_of(
        of=student, train_dataset=features, per_device_train_batch_size=8 // accumulation, max_steps=1,
        gradient_accumulation_steps=accumulation, **taught,
    ).train()  # fmt: skip
    same = {name for name, weight in student.named_parameters() if torch.equal(weight, before[name])}
    assert not [name for name in same if name.startswith(("heads.", "task_layers."))]


def test_a_resumed_run_equals_one_that_was_not_interrupted(recipe, taught, tmp_path):
    ends = ends_of(recipe, tmp_path, **taught, embedding_distillation=2.0)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_config_and_card_name_the_teacher(recipe, taught, tmp_path):
    main(["--config", str(recipe(**taught, do_eval=True))])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["distilled_from"] == "teacher"
    assert "learned the answers of teacher" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_answers_of_every_type_of_task_are_learned(trainer_of, checkpoint, tokenizer, tmp_path, accumulation):
    """Beside a ranking, for which micro-batches run twice."""
    model = MTSBertModel.from_pretrained(checkpoint)
    rows = [
        {"text": text, "text_pair": "Lima lost", "fits": 1} for text in ("Oslo beat Lima", "Shares rise", "The end")
    ]
    tasks = model.config.tasks
    features, _ = build_features(examples_of(rows, tasks), tasks, tokenizer, max_length=32, split="train")
    student = without_dropout(model)
    for head in student.heads.values():
        for weight in head.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    trainer = trainer_of(
        of=student, train_dataset=features, teacher=str(checkpoint), num_train_epochs=30,
        per_device_train_batch_size=3 // accumulation, gradient_accumulation_steps=accumulation,
        feature_cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    trainer.train()
    lines = [line for line in trainer.state.log_history if "topic_distillation_loss" in line]
    taught = [name.removesuffix("_distillation_loss") for name in lines[0] if name.endswith("_distillation_loss")]
    assert sorted(taught) == ["grade", "ner", "tags", "topic"]
    for task in taught:
        assert lines[-1][f"{task}_distillation_loss"] < 0.5 * lines[0][f"{task}_distillation_loss"], task


def test_numbers_of_another_range_are_those_of_the_teacher_all_the_same(checkpoint, tokenizer):
    model = MTSBertModel.from_pretrained(checkpoint)
    text = tokenizer("Oslo beat Lima", return_tensors="pt")
    with torch.no_grad():
        number = model.eval()(**text).logits["grade"]  # of 1 to 5
        states = model.encode(**text)[2]
        for lowest, highest in ((1, 5), (-10, 10)):
            settings = {"type": "sequence_regression", "score_range": [lowest, highest]}
            found = Teacher(model, {"grade": settings}, tokenizer, name="it").answers(states)["grade"]
            assert torch.allclose(lowest + (highest - lowest) * found, number, atol=1e-5)


def test_a_filler_row_has_no_answers(trainer_of, taught):
    trainer = trainer_of(**taught)
    collator = AnswerCollator(trainer.data_collator, trainer.answers_of(trainer.train_dataset))
    row = trainer.train_dataset[0] | {PLACE: 0}
    answers = collator([row, row | {ROW: NO_ROW}])[ANSWERS]
    assert answers["topic"][0].isfinite().all()
    assert answers["topic"][1].isnan().all()
    assert answers["ner"][1].isnan().all()


@pytest.mark.parametrize("is_held", [False, True])
def test_second_texts_are_read_for_their_embedding_alone(trainer_of, checkpoint, tokenizer, tmp_path, is_held):
    model = MTSBertModel.from_pretrained(checkpoint)
    rows = [{"text": "Oslo beat Lima", "text_pair": "Lima lost", "near": 1.0}, {"text": "Shares rise"}]
    tasks = model.config.tasks
    features, _ = build_features(examples_of(rows, tasks), tasks, tokenizer, max_length=32, split="train")
    trainer = trainer_of(
        of=model, train_dataset=features, teacher=str(checkpoint), embedding_distillation=float(is_held),
        feature_cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    sizes = {"encoder": [], "topic": []}
    for name, module in (("encoder", trainer.teacher.model.encoder), ("topic", trainer.teacher.model.heads["topic"])):
        module.register_forward_hook(lambda *given, of=sizes[name]: of.append(len(given[-1][0])))
    answers = trainer.answers_of(features)
    assert sizes == {"encoder": [2, 1] if is_held else [2], "topic": [2]}
    if is_held:
        assert answers.embeddings.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], abs=1e-3)


def watch_device(trainer, model, monkeypatch) -> list[str]:
    """Lists where a model is moved, and its passes, when the device of the run is `"meta"`."""
    events = []
    monkeypatch.setattr(model, "to", lambda device: events.append(torch.device(device).type))
    model.encoder.register_forward_pre_hook(lambda *_: events.append("pass"))
    monkeypatch.setattr(type(trainer.args), "device", torch.device("meta"))
    return events


def test_the_teacher_is_on_the_device_of_the_run_only_while_it_answers(trainer_of, taught, monkeypatch):
    trainer = trainer_of(**taught)
    events = watch_device(trainer, trainer.teacher.model, monkeypatch)
    trainer.answers_of(trainer.train_dataset)
    assert events == ["meta", "pass", "cpu"]


def test_another_reference_is_on_the_device_of_the_run_only_while_it_embeds(trainer_of, taught, monkeypatch):
    cache = {"feature_cache_dir": taught["feature_cache_dir"]}
    trainer = trainer_of(embedding_reference=taught["teacher"], embedding_distillation=1.0, **cache)
    events = watch_device(trainer, trainer.reference, monkeypatch)
    trainer.targets_of(trainer.train_dataset)
    assert events == ["meta", "pass", "cpu"]


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation_weights": {"ner": 2.0}, "teacher": None}, "`distillation_temperatures` need a `teacher`"),
        ({"distillation_temperatures": {"ner": 0.0}}, r"is \{'ner': 0.0\}; each must be above 0"),
        ({"distillation_weights": {"near": 2.0}}, r"names \['near'\]; the tasks that the teacher answers are"),
        ({"distillation_temperatures": {"near": 2.0}}, r"`distillation_temperatures` names \['near'\]"),
        ({"distillation_weights": {"ner": -1.0}}, "it must be a number, 0 or more"),
        ({"distillation_weights": {"ner": 0.0, "topic": 0.0}}, "are all 0: leave out the `teacher`"),
        ({"gradient_aggregator": "UPGrad"}, "it knows no `teacher`"),
        ({"teacher": "nowhere"}, "No checkpoint found under 'nowhere'"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(trainer_of, taught, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**taught | settings)


def test_an_export_does_not_teach(trainer_of, taught, teacher_folder):
    (teacher_folder / "model.safetensors").rename(teacher_folder / "model.onnx")
    with pytest.raises(ValueError, match=r"teacher' is an export, which has a graph in place of weights"):
        trainer_of(**taught)


def test_a_teacher_with_other_labels_is_refused(trainer_of, teacher, taught):
    teacher.rename_labels("ner", {"GPE": "PLACE"})
    teacher.save_pretrained(taught["teacher"])
    with pytest.raises(ValueError, match=r"task 'ner' has other labels.*teacher has \['B-PLACE', 'I-PLACE'\]"):
        trainer_of(**taught)


def test_a_teacher_with_another_type_of_task_is_refused(trainer_of, teacher, taught):
    teacher.config.tasks["topic"]["multi_label"] = True
    teacher.save_pretrained(taught["teacher"])
    with pytest.raises(ValueError, match="task 'topic' is a sequence_classification, with multi_label, and the one"):
        trainer_of(**taught)


def test_a_teacher_without_a_common_task_is_refused(trainer_of, teacher, taught):
    teacher.rename_task("topic", "subject")
    teacher.drop_task("ner")
    teacher.save_pretrained(taught["teacher"])
    with pytest.raises(ValueError, match=r"has the tasks \['subject'\], and the model.*share no task"):
        trainer_of(**taught)


def test_a_teacher_with_another_tokenizer_is_refused(trainer_of, taught):
    tokenizer = AutoTokenizer.from_pretrained(taught["teacher"])
    tokenizer.add_tokens(["zyzzyva"])
    tokenizer.save_pretrained(taught["teacher"])
    with pytest.raises(ValueError, match=r"`teacher` .* has another vocabulary than the model that is trained"):
        trainer_of(**taught)


@pytest.mark.parametrize("argument", ["teacher", "embedding_reference"])
def test_a_model_that_reads_shorter_texts_is_refused(trainer_of, model, model_on, tokenizer, tmp_path, argument):
    short = model_on(BertConfig(**SMALL, max_position_embeddings=16))
    for part in (short, tokenizer):
        part.save_pretrained(tmp_path / "short")
    with pytest.raises(
        ValueError, match=rf"`{argument}` .*short': `max_length` is 64; this encoder .* 3 to 16 tokens"
    ):
        trainer_of(**{argument: str(tmp_path / "short")})


def test_a_teacher_with_a_smaller_embedding_teaches_labels_alone(trainer_of, teacher, taught):
    teacher.set_embedding_size(8)
    teacher.save_pretrained(taught["teacher"])
    assert trainer_of(**taught).reference is None
    with pytest.raises(ValueError, match="its embeddings have 8 numbers, and the model that is trained has 32"):
        trainer_of(**taught, embedding_distillation=1.0)


def test_a_teacher_with_broken_weights_is_refused(trainer_of, teacher, taught):
    teacher.heads["ner"].classifier.bias.data[0] = torch.nan
    teacher.save_pretrained(taught["teacher"])
    with pytest.raises(ValueError, match="an answer of its task 'ner' is not finite"):
        trainer_of(**taught).train()


def test_weights_that_change_before_training_count(trainer_of, taught):
    """As in a trial of `hyperparameter_search`."""
    trainer = trainer_of(**taught)
    trainer.args.distillation_weights = {"ner": 5.0}
    trainer.train()
    assert trainer.distillation.weights == {"topic": 1.0, "ner": 5.0}


def test_a_second_training_may_be_held_to_the_teacher_as_well(trainer_of, taught):
    trainer = trainer_of(**taught)
    trainer.train()
    assert trainer.answers.embeddings.shape == (16, 0)
    trainer.args.embedding_distillation = 1.0
    trainer.train()
    assert torch.equal(trainer.targets.vectors, trainer.answers.embeddings)
    assert trainer.targets.vectors[:8].norm(dim=-1).tolist() == pytest.approx([1.0] * 8, abs=1e-3)


def test_every_trial_of_a_search_is_held_as_its_arguments_say(model, features, tokenizer, taught, tmp_path):
    trainer = MTSBertTrainer(
        args=MTLTrainingArguments(
            str(tmp_path / "run"), max_steps=1, precision="fp32", save_strategy="no", logging_steps=1, **taught
        ),
        model_init=lambda: copy.deepcopy(model),
        processing_class=tokenizer,
        train_dataset=features,
        eval_dataset=features,
    )
    found = []

    def score(metrics: dict[str, float]) -> float:
        is_held = any("embedding_loss" in line for line in trainer.state.log_history)
        config = trainer.model.config
        found.append((is_held, config.embedding_reference, config.distilled_from))
        return metrics["eval_loss"]

    def space(trial) -> dict[str, float]:
        weight = trial.number % 2
        return {"embedding_distillation": trial.suggest_float("embedding_distillation", weight, weight)}

    trainer.hyperparameter_search(space, compute_objective=score, direction="minimize", n_trials=3)
    assert found == [(False, None, "teacher"), (True, "teacher", "teacher"), (False, None, "teacher")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": "other"}, "cannot change `teacher` from '.*teacher' to 'other'"),
        ({"precision": "bf16", "distillation_weights": {"ner": 0}}, "cannot change `precision` from 'fp32' to 'bf16'"),
        ({"embedding_reference": "other"}, "`embedding_reference` from None to 'other'"),
        ({"early_stopping_patience": 1, "load_best_model_at_end": True}, "`early_stopping_patience` from None to 1"),
        (
            {"embedding_distillation": 1.0, "embedding_distillation_parts": 0.5},
            r"`embedding_distillation_parts` from 0\.0 to 0\.5",
        ),
        ({"distillation_weights": {"topic": 2.0}}, "`distillation_weights` of 'ner' from 0"),
    ],
)
def test_what_a_trainer_reads_once_cannot_change_later(trainer_of, taught, changed, message):
    trainer = trainer_of(**taught, distillation_weights={"ner": 0})
    for name, value in changed.items():
        setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_teacher_with_a_smaller_embedding_is_refused_when_a_trial_asks_for_it(trainer_of, teacher, taught):
    teacher.set_embedding_size(8)
    teacher.save_pretrained(taught["teacher"])
    trainer = trainer_of(**taught)
    trainer.args.embedding_distillation = 1.0
    with pytest.raises(ValueError, match="its embeddings have 8 numbers, and the model that is trained has 32"):
        trainer.train()


def test_a_task_with_a_weight_of_0_is_not_taught_and_may_have_other_labels(trainer_of, teacher, taught):
    teacher.rename_labels("ner", {"GPE": "PLACE"})
    teacher.save_pretrained(taught["teacher"])
    trainer = trainer_of(**taught, distillation_weights={"ner": 0})
    trainer.train()
    assert list(trainer.answers.of_texts) == ["topic"]
    assert not trainer.answers.of_tokens
    assert "ner_distillation_loss" not in trainer.state.log_history[0]


def test_the_embedding_may_be_held_to_another_model_than_the_teacher(trainer_of, taught, encoder_folder):
    trainer = trainer_of(**taught, embedding_distillation=1.0, embedding_reference=str(encoder_folder))
    assert trainer.reference is not trainer.teacher.model
    trainer.train()
    assert trainer.answers.embeddings.shape == (16, 0)
    assert trainer.targets.vectors.shape == (16, 32)


def test_a_teacher_in_training_mode_answers_without_dropout(model, tasks, tokenizer):
    assert not Teacher(model.train(), tasks, tokenizer, name="it").model.training
