"""Tests which methods of transformers' Trainer are overridden, and what users override, pass, assign and call."""

import re

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    default_data_collator,
    set_seed,
)

import mtsbert.training
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.training.trainer import MTSBertTrainer


def overridden() -> set[str]:
    classes = [one for one in MTSBertTrainer.__mro__ if one.__module__.startswith("mtsbert.")]
    return {
        name for one in classes for name in vars(one) if hasattr(Trainer, name) and callable(getattr(Trainer, name))
    }


def test_every_private_method_that_is_overridden_is_listed_with_its_reason():
    listed = re.findall(r"^- `(_\w+)`: .+", mtsbert.training.__doc__, re.MULTILINE)
    assert listed == sorted(name for name in overridden() if re.match("_[a-z]", name))


def test_the_methods_that_are_overridden_still_exist():
    """Where transformers renames one, it would no longer be called, and nothing else would say so."""
    for name in re.findall(r"^- `(_\w+)`", mtsbert.training.__doc__, re.MULTILINE):
        assert callable(getattr(Trainer, name, None)), name


@pytest.fixture
def trainer_like(model, features, tokenizer, tmp_path):
    """Builds a Trainer of a user's class; keyword arguments are its own."""

    def build(kind: type[MTSBertTrainer] = MTSBertTrainer, of: torch.nn.Module = model, **given) -> MTSBertTrainer:
        settings = {"precision": "fp32", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        arguments = MTLTrainingArguments(
            str(tmp_path), **settings, num_train_epochs=1, save_strategy="no", disable_tqdm=True, logging_steps=1
        )
        set_seed(3)
        rows = {"train_dataset": features, "eval_dataset": features}
        return kind(of, arguments, processing_class=tokenizer, **rows | given)

    return build


class CallsTheModel(MTSBertTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits["topic"], labels["topic"])
        return (loss, outputs) if return_outputs else loss


class GivesTheModelTexts(MTSBertTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "labels")})
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.parametrize("kind", [CallsTheModel, GivesTheModelTexts])
def test_a_loss_in_place_of_ours_is_refused_with_the_way(trainer_like, kind):
    with pytest.raises(ValueError, match=r"`compute_loss` of your Trainer replaces .*super\(\).compute_loss"):
        trainer_like(kind).train()


def test_an_error_in_a_loss_of_the_users_is_theirs(trainer_like):
    class Mistaken(MTSBertTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            return F.relu(loss, slope=1)

    with pytest.raises(TypeError, match=r"relu.*unexpected keyword argument 'slope'"):
        trainer_like(Mistaken).train()


def test_a_loss_on_top_of_ours_is_that_of_the_whole_step(trainer_like, model):
    class Doubled(MTSBertTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)  # without `num_items_in_batch`
            return (2 * loss, outputs) if return_outputs else 2 * loss

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    losses = []
    for kind in (MTSBertTrainer, Doubled):
        model.load_state_dict(before)
        trainer = trainer_like(kind)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(2 * losses[0])


def test_a_batch_can_be_tried_by_hand(trainer_like, model):
    trainer = trainer_like()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        expected = sum(model.eval()(**batch).losses.values())
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert trainer.compute_loss(model.train(), dict(batch)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_compiled_model_whose_checkpoint_nothing_could_read_is_refused(trainer_like, model):
    with pytest.raises(ValueError, match=r"is compiled by `torch.compile`.*set `torch_compile`"):
        trainer_like(of=torch.compile(model, backend="eager"))


def test_weights_in_which_small_updates_are_lost_are_told(trainer_like, model, caplog):
    trainer_like().train()
    assert "16 bits" not in caplog.text
    trainer_like(of=model.to(torch.bfloat16)).train()
    assert "Weights of 16 bits are trained, in which small updates are lost" in caplog.text


@pytest.mark.parametrize("collator", [DataCollatorWithPadding, DataCollatorForTokenClassification, None])
def test_collators_of_transformers_are_refused(trainer_like, tokenizer, collator):
    with pytest.raises(ValueError, match=r"`data_collator` is one of transformers.*Leave it out"):
        trainer_like(data_collator=collator(tokenizer) if collator else default_data_collator)


def test_keys_to_ignore_are_ignored_beside_all_but_the_logits(trainer_like, features):
    trainer = trainer_like()
    expected = trainer.predict(features)
    found = trainer.predict(features, ignore_keys=["hidden_states"])
    assert (found.predictions["topic"] == expected.predictions["topic"]).all()
    assert found.metrics["test_loss"] == pytest.approx(expected.metrics["test_loss"])
    assert trainer.evaluate(ignore_keys=[])["eval_loss"] == pytest.approx(expected.metrics["test_loss"])


def test_metrics_that_are_assigned_later_stand_beside_ours_too(trainer_like):
    trainer = trainer_like()
    before = trainer.evaluate()
    trainer.compute_metrics = lambda prediction: {"highest": float(prediction.predictions.max())}
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits["topic"].argmax(-1)
    after = trainer.evaluate()
    assert after.pop("eval_highest") in (0.0, 1.0)
    assert after.keys() == before.keys()
    trainer.compute_metrics = None
    assert "eval_highest" not in trainer.evaluate()


def test_dataloaders_of_rows_are_made_by_hand(trainer_like, examples):
    trainer, rows = trainer_like(), Dataset.from_list(examples).select(range(3))
    trainer.eval_dataset = Dataset.from_list(examples)
    for loader, number in (
        (trainer.get_test_dataloader(rows), 3),
        (trainer.get_eval_dataloader(rows), 3),
        (trainer.get_eval_dataloader(), 8),
    ):
        assert len(next(iter(loader))["input_ids"]) == number
