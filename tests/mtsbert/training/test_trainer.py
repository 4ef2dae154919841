"""Tests the Trainer: exact gradients, logging, learning rate schedules and resuming."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.features import build_features
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.training.trainer import MTSBertTrainer, name_as_ours
from tests.mtsbert.rows import examples_of


class _AfterSteps(TrainerCallback):
    def __init__(self, call: Callable[[], None]):
        self.call = call

    def on_step_end(self, args, state, control, **kwargs):
        self.call()


def without_dropout(model: MTSBertModel) -> MTSBertModel:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def gradients(trainer: MTSBertTrainer) -> dict[str, torch.Tensor]:
    """The gradients of the first optimizer step, as the optimizer gets them."""
    found: dict[str, torch.Tensor] = {}

    class Stop(Exception):
        pass

    def record(*args, **kwargs):
        found.update({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
        raise Stop

    trainer.create_optimizer().step = record
    with pytest.raises(Stop):
        trainer.train()
    return found


def test_accumulated_micro_batches_give_the_gradients_of_one_batch(trainer_of, model):
    model = without_dropout(model)
    settings = {"max_grad_norm": 0.0, "task_weights": {"ner": 3.0}}
    whole = gradients(trainer_of(of=copy.deepcopy(model), **settings))
    pieces = gradients(
        trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    )
    assert set(whole) == set(pieces) == {name for name, _ in model.named_parameters()}
    for name in whole:
        assert torch.allclose(whole[name], pieces[name], atol=1e-6), name


def test_gradients_are_those_of_the_weighted_sum_of_mean_losses(trainer_of, model):
    model = without_dropout(model)
    trainer = trainer_of(of=copy.deepcopy(model), max_grad_norm=0.0, task_weights={"ner": 3.0})
    found = gradients(trainer)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    losses = model.train()(**batch).losses
    (losses["topic"] + 3.0 * losses["ner"]).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_without_labels_of_a_task_leaves_its_head_alone(
    trainer_of, examples, tasks, tokenizer, encoder_folder, accumulation
):
    """Adam would move it on by its momentum, and decay it."""
    for row in examples[4:]:
        row["topic"] = None
    features = build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train")[0]
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=1)
    heads = []
    trainer = trainer_of(
        of=model, train_dataset=features, per_device_train_batch_size=4 // accumulation, weight_decay=0.1,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer.add_callback(_AfterSteps(lambda: heads.append(copy.deepcopy(model.heads.state_dict()))))
    trainer.train()
    moved = {name for name in heads[0] if not torch.equal(heads[0][name], heads[1][name])}
    assert moved == {name for name in heads[0] if name.startswith("ner.")}


def test_layers_of_tasks_rest_in_a_step_without_any_label(
    trainer_of, examples, tasks, tokenizer, encoder_folder, tmp_path
):
    for row in examples[4:]:
        row["topic"] = row["ner"] = None
    features = build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train")[0]
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=1)
    weights = []
    trainer = trainer_of(
        of=model, train_dataset=features, per_device_train_batch_size=4, weight_decay=0.1, embedding_distillation=1.0,
        feature_cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    trainer.add_callback(_AfterSteps(lambda: weights.append(copy.deepcopy(model.state_dict()))))
    trainer.train()
    moved = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert moved
    assert not {name for name in moved if name.startswith(("heads.", "task_layers."))}


def test_each_task_is_logged_with_its_own_mean_loss(trainer_of, model):
    trainer = trainer_of(of=without_dropout(model), task_weights={"ner": 3.0}, per_device_train_batch_size=4,
                         gradient_accumulation_steps=2)  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    expected = model.train(False)(**batch).losses
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["topic_loss"] == pytest.approx(expected["topic"].item(), rel=1e-4)
    assert line["ner_loss"] == pytest.approx(expected["ner"].item(), rel=1e-4)
    assert line["loss"] == pytest.approx(line["topic_loss"] + 3.0 * line["ner_loss"], rel=1e-3)


def test_logged_losses_are_means_over_the_steps_since_the_last_line(trainer_of, model):
    arguments = {"per_device_train_batch_size": 4, "learning_rate": 0.0}
    trainer_of(of=(one := without_dropout(model)), **arguments)
    each = trainer_of(of=one, **arguments)
    each.train()
    both = trainer_of(of=one, logging_steps=2, **arguments)
    both.train()
    singles = [line["ner_loss"] for line in each.state.log_history if "ner_loss" in line]
    (mean,) = [line["ner_loss"] for line in both.state.log_history if "ner_loss" in line]
    assert len(singles) == 2
    assert mean == pytest.approx(sum(singles) / 2, rel=1e-5)


def test_evaluation_is_exact_whatever_the_batch_size(trainer_of, features):
    by_size = [
        trainer_of(eval_dataset=features, per_device_eval_batch_size=size, task_weights={"ner": 3.0}).evaluate()
        for size in (1, 3, 8)
    ]
    for metrics in by_size[1:]:
        for key, value in metrics.items():
            if not key.endswith(("time", "per_second")):
                assert value == pytest.approx(by_size[0][key], rel=1e-5), key
    metrics = by_size[0]
    assert {"eval_topic_accuracy", "eval_ner_f1", "eval_composite", "eval_topic_loss"} <= set(metrics)
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_topic_loss"] + 3.0 * metrics["eval_ner_loss"])


def test_step_decay_multiplies_the_rate_every_so_many_epochs(trainer_of):
    trainer = trainer_of(
        num_train_epochs=4, per_device_train_batch_size=4, step_decay_every=1, step_decay_factor=0.5, warmup_steps=2
    )
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates == pytest.approx([0.0, 0.5e-2, 1e-2, 1e-2, 0.5e-2, 0.5e-2, 0.25e-2, 0.25e-2])


def test_step_decay_with_max_steps_is_refused(trainer_of):
    with pytest.raises(ValueError, match="`step_decay_every` counts epochs"):
        trainer_of(step_decay_every=1, max_steps=5).train()


def test_early_stopping_ends_a_run_that_does_not_improve(trainer_of, features):
    trainer = trainer_of(
        eval_dataset=features,
        learning_rate=0.0,
        num_train_epochs=9,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_composite",
        early_stopping_patience=2,
    )
    trainer.train()
    assert trainer.state.epoch == 3.0


def test_a_resumed_run_ends_with_the_same_weights(trainer_of, model, tmp_path):
    settings = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 3,
        "head_learning_rate": 5e-2,
        "train_sampling_strategy": "group_by_length",
    }
    straight = trainer_of(of=copy.deepcopy(model), **settings)
    straight.train()
    resumed = trainer_of(of=copy.deepcopy(model), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert [line["step"] for line in resumed.state.log_history if "loss" in line] == list(range(1, 9))
    assert resumed.state.log_history[:3] == straight.state.log_history[:3]
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_the_log_has_weights_examples_and_gradients_of_every_task(trainer_of):
    trainer = trainer_of(task_weights={"ner": 3.0}, gradient_statistics_steps=1)
    trainer.train()
    line = trainer.state.log_history[0]
    assert (line["topic_weight"], line["ner_weight"]) == (1.0, 3.0)
    assert (line["topic_examples"], line["ner_examples"]) == (7, 7)
    assert -1.0 <= line["grad_cosine_topic_ner"] <= 1.0


def test_gradient_statistics_by_hand(trainer_of, model):
    model = without_dropout(model)
    trainer = trainer_of(of=copy.deepcopy(model), gradient_statistics_steps=1)
    trainer.train()
    line = trainer.state.log_history[0]
    losses = model.train()(**trainer.data_collator([trainer.train_dataset[row] for row in range(8)])).losses
    gradients = {}
    for task, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        gradients[task] = torch.cat([p.grad.flatten() for p in model.encoder.encoder.layer[-1].parameters()])
    for task, gradient in gradients.items():
        assert line[f"{task}_grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(gradients["topic"], gradients["ner"], dim=0)
    assert line["grad_cosine_topic_ner"] == pytest.approx(cosine.item(), abs=1e-4)


@pytest.mark.parametrize(("first", "second"), [("topic", "ner"), ("ner", "topic")])
def test_every_task_is_measured_though_the_step_that_is_due_has_labels_of_one(
    trainer_of, examples, tasks, tokenizer, first, second
):
    for row, example in enumerate(examples):  # the first batch has labels of one task, the second of the other
        example[second if row < 4 else first] = None
    settings = {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    trainer = trainer_of(gradient_statistics_steps=2, logging_steps=2, **settings)
    trainer.train_dataset = build_features(
        examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train"
    )[0]
    trainer.train()
    assert {"topic_grad_norm", "ner_grad_norm", "grad_cosine_topic_ner"} <= set(trainer.state.log_history[0])


def test_gradient_statistics_do_not_change_training_and_can_be_left_out(trainer_of, model):
    runs = []
    for every in (0, 1):
        trainer = trainer_of(of=copy.deepcopy(model), gradient_statistics_steps=every, num_train_epochs=2)
        trainer.train()
        runs.append(trainer)
    assert not [key for key in runs[0].state.log_history[0] if "grad_cosine" in key]
    for name, weight in runs[0].model.state_dict().items():
        assert torch.equal(weight, runs[1].model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["model", "layered_model"])
def test_adding_gradients_by_torchjd_is_adding_losses(trainer_of, kind, request):
    model = without_dropout(request.getfixturevalue(kind))
    settings = {"max_grad_norm": 0.0, "task_weights": {"ner": 3.0}}
    plain = gradients(trainer_of(of=copy.deepcopy(model), **settings))
    added = gradients(trainer_of(of=copy.deepcopy(model), gradient_aggregator="Sum", **settings))
    for name in plain:
        assert torch.allclose(plain[name], added[name], atol=1e-6), name
    other = gradients(trainer_of(of=copy.deepcopy(model), gradient_aggregator="MGDA", **settings))
    assert any(not torch.allclose(plain[name], other[name], atol=1e-4) for name in plain if "encoder" in name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_aggregator": "Nothing"}, "`gradient_aggregator` is 'Nothing'; torchjd has .*UPGrad"),
        ({"gradient_aggregator": "Constant"}, "'Constant' cannot be used"),
        ({"gradient_aggregator": "Sum", "gradient_accumulation_steps": 2}, "needs one process and"),
        ({"gradient_aggregator": "Sum", "freeze_encoder": True}, "there are steps without any"),
        ({"loss_balancing": "magic"}, "`loss_balancing` is 'magic'; allowed are"),
        ({"gradient_statistics_steps": -1}, "`gradient_statistics_steps` is -1"),
    ],
)
def test_balancing_that_cannot_be_is_refused(trainer_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**arguments)


@pytest.mark.parametrize("scheme", ["uncertainty", "dwa", "first_step"])
def test_balancing_changes_weights_and_survives_a_resume(trainer_of, model, tmp_path, scheme):
    settings = {
        "loss_balancing": scheme,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 4,  # the end of an epoch, where a resumed run begins with the next
        "head_learning_rate": 5e-2,
    }
    straight = trainer_of(of=copy.deepcopy(model), **settings)
    straight.train()
    weights = [line["ner_weight"] for line in straight.state.log_history if "ner_weight" in line]
    assert weights[-1] != 1.0
    resumed = trainer_of(of=copy.deepcopy(model), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert resumed.balancing.state() == straight.balancing.state()
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_run_is_not_resumed_with_another_balancing(trainer_of):
    trainer_of(max_steps=1, save_strategy="steps", save_steps=1, loss_balancing="uncertainty").train()
    with pytest.raises(ValueError, match="was trained with `loss_balancing: uncertainty`, and this run has 'dwa'"):
        trainer_of(max_steps=2, loss_balancing="dwa").train(resume_from_checkpoint=True)


def test_a_checkpoint_that_says_nothing_of_balancing_is_static(trainer_of, tmp_path):
    trainer_of(max_steps=1, save_strategy="steps", save_steps=1).train()
    path = tmp_path / "run" / "checkpoint-1" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["loss_balancing"]  # as version 0.1.0 wrote it
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="was trained with `loss_balancing: static`, and this run has 'dwa'"):
        trainer_of(max_steps=2, loss_balancing="dwa").train(resume_from_checkpoint=str(path.parent))
    trainer = trainer_of(max_steps=2)
    trainer.train(resume_from_checkpoint=str(path.parent))
    assert trainer.state.global_step == 2


def test_the_uncertainty_of_a_task_is_learned(trainer_of):
    trainer = trainer_of(loss_balancing="uncertainty", head_learning_rate=0.1, weight_decay=0.5)
    trainer.train()
    learned = trainer.balancing.log_variances["ner"]
    (group,) = [group for group in trainer.optimizer.param_groups if any(p is learned for p in group["params"])]
    assert group["weight_decay"] == 0.0
    # Adam's first step is the learning rate against the sign of the gradient 1/2 - L, where L > 1/2 at the start.
    assert learned.item() == pytest.approx(0.1, rel=1e-3)


def test_weights_of_unknown_tasks_are_refused(trainer_of):
    with pytest.raises(ValueError, match=r"`task_weights` names unknown tasks \['mood'\]"):
        trainer_of(task_weights={"mood": 1.0})


# Both are about torch's own code.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_a_compiled_model_learns_the_same(trainer_of, model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain, flags = copy.deepcopy(model), {"optim": "sgd", "gradient_statistics_steps": 1}
    trainer_of(of=plain, **flags).train()
    compiled = trainer_of(torch_compile=True, **flags)
    compiled.train()
    assert "grad_cosine_topic_ner" in compiled.state.log_history[0]
    for name, weight in plain.state_dict().items():
        difference = (model.state_dict()[name] - weight).abs().max().item()
        assert difference < 1e-5, name


def test_a_model_that_fsdp_gave_another_class_is_saved_under_its_own(trainer_of, model, tmp_path):
    trainer = trainer_of(gradient_statistics_steps=1)
    trainer.is_fsdp_enabled = True
    trainer.begin_step()
    assert not trainer.gradient_statistics.awaited
    model.__class__ = type("FSDPMTSBertModel", (MTSBertModel,), {})
    name_as_ours(trainer.model)
    trainer._save(str(tmp_path / "saved"))  # `save_model` would want FSDP itself
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert settings["auto_map"]["AutoModel"] == "modeling_mtsbert.MTSBertModel"
    assert settings["architectures"] == ["MTSBertModel"]
    assert (tmp_path / "saved" / "pipeline_mtsbert.py").is_file()


def test_dropping_the_last_batch_may_not_leave_none(trainer_of):
    with pytest.raises(ValueError, match="`dataloader_drop_last` leaves nothing of 8 training rows: a batch has 16"):
        trainer_of(dataloader_drop_last=True, per_device_train_batch_size=16).train()
    assert trainer_of(dataloader_drop_last=True).train().global_step == 1


@pytest.mark.parametrize("batch_size", [3, 16])
def test_only_the_last_training_batch_is_dropped(trainer_of, features, batch_size):
    rates = {"learning_rate": 0.0, "per_device_eval_batch_size": batch_size}
    every = trainer_of(eval_dataset=features, **rates)
    trainer = trainer_of(
        eval_dataset=features, dataloader_drop_last=True, per_device_train_batch_size=3, num_train_epochs=2, **rates
    )
    assert trainer.train().global_step == 4  # of 3 rows each, two rows of each epoch are left out
    assert trainer.evaluate()["eval_loss"] == pytest.approx(every.evaluate()["eval_loss"])
    assert trainer.evaluations["eval"].counts["topic"].sum() == 7  # one row of eight has no topic
    assert trainer.predict(features).predictions["topic"].shape == (8, 2)
    assert trainer.args.dataloader_drop_last


def test_gradient_norms_do_not_depend_on_how_a_step_is_divided(trainer_of, model):
    norms = []
    for size, steps in ((8, 1), (4, 2), (2, 4), (1, 8)):
        trainer = trainer_of(
            of=without_dropout(model),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            gradient_statistics_steps=1,
        )
        trainer.train()
        line = trainer.state.log_history[0]
        norms.append([line["topic_grad_norm"], line["ner_grad_norm"], line["grad_cosine_topic_ner"]])
    assert all(of_size == pytest.approx(norms[0], rel=1e-4) for of_size in norms[1:])


def test_evaluating_another_split_after_training_says_nothing_of_early_stopping(trainer_of, features, caplog):
    flags = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = trainer_of(eval_dataset=features, early_stopping_patience=1, **flags)
    trainer.train()
    callbacks = list(trainer.callback_handler.callbacks)
    trainer.evaluate(features, metric_key_prefix="test")
    assert "early stopping" not in caplog.text
    assert trainer.callback_handler.callbacks == callbacks


def test_evaluating_in_another_precision_keeps_the_weights(trainer_of, features, tmp_path):
    trainer = trainer_of(eval_dataset=features, bf16_full_eval=True)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.evaluate()
    trainer.predict(features)
    assert all(torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items())
    assert trainer.evaluate()["eval_loss"] != trainer_of(eval_dataset=features).evaluate()["eval_loss"]  # it was cast


def test_labels_are_counted_on_the_device_of_the_batches(trainer_of):
    """`meta` is a device that every machine has: like a GPU, it refuses to be mixed with the CPU."""
    trainer = trainer_of()
    batches = list(trainer.get_train_dataloader())
    moved = [batch | {"labels": {task: of.to("meta") for task, of in batch["labels"].items()}} for batch in batches]
    for of_step in (batches, moved):
        device = of_step[0]["labels"]["topic"].device
        counts = trainer.num_items_of(of_step, device)
        assert {count.device for count in counts.values()} == {device}
    assert trainer.num_items_of(batches, torch.device("meta"))["topic"].device.type == "meta"


def test_adam_is_adam_without_decay(trainer_of, model):
    """The weights after three steps are those of torch's Adam."""
    settings = {"max_steps": 3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    ours, theirs = (copy.deepcopy(without_dropout(model)) for _ in range(2))
    trainer_of(of=ours, optim="adam", **settings).train()
    trainer = trainer_of(of=theirs, **settings)
    trainer.optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    trainer.train()
    for name, weight in ours.state_dict().items():
        assert torch.allclose(weight, theirs.state_dict()[name], atol=1e-6), name
    with pytest.raises(
        ValueError, match=r"`optim: adam` .*, and `weight_decay` is 0\.1. Set it to 0, or use `adamw_torch`"
    ):
        trainer_of(optim="adam", weight_decay=0.1)


def test_a_run_names_its_optimizer_schedule_and_losses(trainer_of, model, caplog):
    model.config.tasks["topic"] |= {
        "label_smoothing": 0.1,
        "class_weights": [1.0, 2.0, 1.0][: len(model.config.tasks["topic"]["labels"])],
    }
    model.config.tasks["ner"]["loss"] = "focal"
    with caplog.at_level("INFO", "mtsbert"):
        trainer_of(optim="adam", lr_scheduler_type="cosine", max_steps=1).train()
    assert "Optimizer adamw_torch, weight decay 0, cosine schedule." in caplog.text
    assert "topic by cross-entropy with class weights and label smoothing; ner by focal cross-entropy." in caplog.text


def test_a_tokenizer_that_pads_on_the_left_is_trained_with_and_saved_as_one_that_answers(
    model, tokenizer, tasks, tmp_path
):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    rows = Dataset.from_list([{"text": "Oslo", "topic": "Sports"}, {"text": "Ada Perez wins the race in Lima"}])
    arguments = MTLTrainingArguments(str(tmp_path), precision="fp32", disable_tqdm=True)
    trainer = MTSBertTrainer(model, arguments, processing_class=tokenizer)
    predicted = torch.from_numpy(trainer.predict(rows).predictions["topic"]).softmax(dim=-1)
    trainer.save_model()
    ask = load_pipeline(str(tmp_path))
    answers = [list(answer["topic"]["scores"].values()) for answer in ask(list(rows["text"]))]
    assert torch.allclose(predicted, torch.tensor(answers), atol=1e-5)
    assert ask.tokenizer.padding_side == "right"  # by which `AutoModel` and sentence-transformers pad
