"""Tests the tasks' own copies of the encoder's top layers: in the network, in training, and in every door."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    LongformerConfig,
    Qwen3Config,
    XLNetConfig,
)

from modeling_mtsbert import MTSBertForTokenClassification, MTSBertModel
from mtsbert.network import padding_free
from mtsbert.network.frozen_prefix import FrozenPrefix
from mtsbert.network.parts import model_parts
from mtsbert.training.optimization import peak_learning_rates
from run_mtl import main
from tests.mtsbert.conftest import ENCODERS, SMALL
from tests.mtsbert.rows import ACTIVATION_CHECKPOINTING
from tests.mtsbert.training.test_trainer import gradients, without_dropout


PAIRS = {"near": {"type": "pair_similarity", "score_range": [0, 1]}}


@pytest.fixture
def batch(tokenizer) -> dict[str, torch.Tensor]:
    return tokenizer(["Ada Perez wins the race", "Shares rise"], padding=True, return_tensors="pt")


@pytest.fixture
def labels(batch) -> dict[str, torch.Tensor]:
    return {"topic": torch.tensor([1, 0]), "ner": torch.where(batch["attention_mask"].bool(), 2, -100)}


def changes(before: dict[str, torch.Tensor], model: MTSBertModel) -> set[str]:
    """The parts of the model, such as `encoder.encoder.layer.1`, with a weight that differs."""
    names = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    parts = ["encoder.embeddings", "encoder.encoder.layer.0", "encoder.encoder.layer.1", "task_layers", "heads"]
    return {part for part in parts if any(name.startswith(f"{part}.") for name in names)}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_new_model_computes_what_it_does_without_task_layers(model_on, tasks, batch, tmp_path, name):
    plain = model_on(copy.deepcopy(ENCODERS[name])).eval()
    layered = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks, num_task_layers=1).eval()
    layered.heads.load_state_dict(plain.heads.state_dict())
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    expected, found = plain(**inputs), layered(**inputs)
    is_text = batch["attention_mask"].bool()
    assert torch.allclose(found.logits["topic"], expected.logits["topic"], atol=1e-6)
    assert torch.allclose(found.logits["ner"][is_text], expected.logits["ner"][is_text], atol=1e-6)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    number = sum(weight.numel() for name, weight in layered.named_parameters() if "task_layers" in name)
    assert number == sum(weight.numel() for weight in layered.parameters()) - sum(
        weight.numel() for weight in plain.parameters()
    )
    assert number > 0


def test_tasks_read_their_own_layers_and_the_embedding_reads_the_encoder(layered_model, batch):
    before = layered_model(**batch)
    other = copy.deepcopy(layered_model)
    with torch.no_grad():
        for weight in other.task_layers.parameters():
            weight.mul_(1.5)
    after = other(**batch)
    assert torch.equal(after.pooler_output, before.pooler_output)
    assert torch.equal(after.last_hidden_state, before.last_hidden_state)
    assert not torch.allclose(after.logits["topic"], before.logits["topic"])
    assert not torch.allclose(after.logits["ner"], before.logits["ner"])
    with torch.no_grad():
        for weight in layered_model.encoder.encoder.layer[1].parameters():
            weight.mul_(1.5)
    moved = layered_model(**batch)
    assert not torch.allclose(moved.pooler_output, before.pooler_output)
    assert torch.equal(moved.logits["topic"], before.logits["topic"])


def test_task_layers_do_not_run_if_no_head_needs_them(layered_model, batch, monkeypatch):
    expected = layered_model(**batch)
    monkeypatch.setattr(layered_model.task_layers, "forward", None)
    found = layered_model(**batch, tasks=[])
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert found.logits == {}
    with pytest.raises(TypeError):
        layered_model(**batch)


def test_a_saved_model_and_its_views_answer_the_same(layered_model, batch, tmp_path):
    layered_model.save_pretrained(tmp_path)
    loaded, info = MTSBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    expected = layered_model(**batch)
    found = loaded.eval()(**batch)
    assert all(torch.equal(found.logits[task], logits) for task, logits in expected.logits.items())
    view = MTSBertForTokenClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(view(**batch).logits, expected.logits["ner"])


def test_several_threads_get_the_answers_of_one(layered_model, tokenizer):
    texts = ["Oslo " * number for number in range(1, 60)]
    expected = [layered_model(**tokenizer(text, return_tensors="pt")).logits["topic"] for text in texts]

    def ask(text: str) -> torch.Tensor:
        with torch.no_grad():
            return layered_model(**tokenizer(text, return_tensors="pt")).logits["topic"]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, texts))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_compiled_model_answers_the_same(layered_model, batch):
    expected = layered_model(**batch)
    found = torch.compile(layered_model, backend="aot_eager", fullgraph=True)(**batch)
    for task, logits in expected.logits.items():
        assert torch.allclose(found.logits[task], logits, atol=1e-5)


def test_second_texts_change_nothing_for_the_first(encoder_folder, tasks, batch):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={**tasks, **PAIRS}, num_task_layers=1).eval()
    expected = model(**batch)
    pairs = {f"pair_{name}": batch[name].flip(0) for name in ("input_ids", "attention_mask")}
    found = model(**batch, **pairs)
    assert torch.allclose(found.logits["topic"], expected.logits["topic"], atol=1e-6)
    is_text = batch["attention_mask"].bool()
    assert torch.allclose(found.logits["ner"][is_text], expected.logits["ner"][is_text], atol=1e-6)
    assert torch.allclose(found.logits["near"], torch.stack([found.pooler_output.prod(dim=0).sum()] * 2), atol=1e-6)


@pytest.mark.parametrize("given", [{"use_reentrant": True}, {"use_reentrant": False}])
def test_activation_checkpointing_gives_the_same_gradients(layered_model, batch, labels, given):
    model = without_dropout(layered_model).train()
    other = copy.deepcopy(model)
    enable = getattr(other, f"{ACTIVATION_CHECKPOINTING}_enable")
    enable(given)
    for one in (model, other):
        one(**batch, labels=labels).loss.backward()
    for (name, parameter), same in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (parameter.grad is None) == (same.grad is None), name
        assert parameter.grad is None or torch.allclose(parameter.grad, same.grad, atol=1e-7), name


def test_every_weight_that_is_trained_has_a_gradient_in_every_batch(encoder_folder, tasks, batch, labels):
    """As DDP needs it: also those that only pairs train, in a batch without pairs."""
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={**tasks, **PAIRS}, num_task_layers=1)
    model(**batch, labels=labels).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert not any(parameter.grad.any() for parameter in model.encoder.encoder.layer[1].parameters())
    assert any(parameter.grad.any() for parameter in model.encoder.encoder.layer[0].parameters())


# Training


def test_without_anything_that_trains_the_embedding_the_copied_layers_stay(trainer_of, layered_model, tmp_path):
    before = copy.deepcopy(layered_model.state_dict())
    trainer_of(of=layered_model, weight_decay=0.1).train()
    assert changes(before, layered_model) == {"encoder.embeddings", "encoder.encoder.layer.0", "task_layers", "heads"}
    before = copy.deepcopy(layered_model.state_dict())
    trainer_of(of=layered_model, embedding_distillation=1.0, feature_cache_dir=str(tmp_path / "cache")).train()
    assert changes(before, layered_model) == {
        *("encoder.embeddings", "encoder.encoder.layer.0", "encoder.encoder.layer.1", "task_layers", "heads")
    }


def test_a_frozen_encoder_leaves_the_task_layers_to_learn_and_the_embedding_exact(trainer_of, layered_model, batch):
    before, embedding = copy.deepcopy(layered_model.state_dict()), layered_model(**batch).pooler_output
    trainer_of(of=layered_model, freeze_encoder=True).train()
    assert changes(before, layered_model) == {"task_layers", "heads"}
    assert torch.equal(layered_model.eval()(**batch).pooler_output, embedding)


def test_with_all_heads_frozen_as_well_nothing_is_trained(trainer_of, layered_model):
    trainer = trainer_of(of=layered_model, freeze_encoder=True, freeze_heads=["topic", "ner"])
    assert trainer.freezing.is_total


@pytest.mark.parametrize("flags", [{"freeze_encoder": True}, {"freeze_embeddings": True, "num_frozen_layers": 2}])
def test_the_cached_layers_end_below_the_copied_ones(trainer_of, layered_model, tmp_path, flags):
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache_dtype": "fp32", **flags}
    layered_model = without_dropout(layered_model)
    one, other = copy.deepcopy(layered_model), copy.deepcopy(layered_model)
    trainer = trainer_of(of=one, feature_cache=True, num_train_epochs=2, **cache)
    assert FrozenPrefix.of(trainer.freezing).num_layers == 1
    trainer.train()
    assert trainer.feature_cache is not None
    trainer_of(of=other, feature_cache=False, num_train_epochs=2, **cache).train()
    assert changes(layered_model.state_dict(), one) == {"task_layers", "heads"}
    for name, weight in other.state_dict().items():
        assert torch.allclose(one.state_dict()[name], weight, atol=1e-5), name


@pytest.mark.parametrize(
    "flags", [{}, {"freeze_encoder": True, "feature_cache": True}, {ACTIVATION_CHECKPOINTING: True}]
)
def test_training_without_padding_gives_the_same_weights(trainer_of, layered_model, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(padding_free, "WORTHWHILE", 0.99)
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache_dtype": "fp32"}
    widths = []
    models = [without_dropout(copy.deepcopy(layered_model)) for _ in range(2)]
    for model, without_padding in zip(models, (True, False), strict=True):
        model.task_layers.layers[0].register_forward_pre_hook(
            lambda module, args: widths.append(args[0].shape[:2].numel()) if module.training else None
        )
        trainer_of(of=model, num_train_epochs=2, optim="sgd", padding_free=without_padding, **cache, **flags).train()
    assert max(widths[: len(widths) // 2]) < min(widths[len(widths) // 2 :])
    for name, weight in models[1].state_dict().items():
        assert torch.allclose(models[0].state_dict()[name], weight, atol=1e-5), name
    assert "task_layers" in changes(layered_model.state_dict(), models[0])


@pytest.mark.parametrize("split", [(2, 4), (4, 2)])
def test_gradients_are_those_of_the_whole_step(trainer_of, layered_model, split):
    model = without_dropout(layered_model)
    whole = gradients(trainer_of(of=copy.deepcopy(model), max_grad_norm=0.0))
    size, steps = split
    parts = gradients(
        trainer_of(of=copy.deepcopy(model), max_grad_norm=0.0, per_device_train_batch_size=size,
                   gradient_accumulation_steps=steps)
    )  # fmt: skip
    assert any(name.startswith("task_layers.") for name in whole)
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-6), name


def test_copies_thaw_with_the_layer_they_are_copies_of(trainer_of, layered_model):
    trainer = trainer_of(of=layered_model, gradual_unfreezing=True)
    periods = trainer.freezing.periods
    assert periods["task_layers.1"] == 1  # also if its original, which nothing trains here, stays frozen
    assert periods["encoder.layer.0"] == 2
    assert "encoder.layer.1" in trainer.freezing.forever


def test_copies_learn_as_fast_as_the_layer_they_are_copies_of(trainer_of, layered_model):
    settings = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
    trainer = trainer_of(of=layered_model, layer_decay=0.5, **settings)
    assert trainer.learning_rates["task_layers.1"] == trainer.learning_rates["encoder.layer.1"] == 5e-4
    rates = peak_learning_rates(layered_model, model_parts(layered_model), trainer_of(**settings).args)
    assert rates["task_layers.1"] == 1e-3
    assert rates["heads.topic"] == 1e-2


def test_tasks_on_pairs_alone_leave_task_layers_as_they_are(trainer_of, encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=PAIRS, num_task_layers=1)
    rows = {"text": ["Oslo wins", "Lima wins"], "text_pair": ["Lima wins", "Oslo wins"], "near": [0.1, 0.9]}
    trainer = trainer_of(of=model, train_dataset=Dataset.from_dict(rows))
    assert trainer.freezing.forever == {"task_layers.1"}


def test_a_norm_after_the_layers_is_copied_and_trained(model_on, tasks, tmp_path):
    model_on(copy.deepcopy(ENCODERS["modernbert"]))
    model = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks, num_task_layers=1)
    parts = model_parts(model)
    assert any(parameter is model.task_layers.norm.weight for parameter in parts["task_layers.1"].parameters)
    every = [id(parameter) for part in parts.values() for parameter in part.parameters]
    assert sorted(every) == sorted(id(parameter) for parameter in model.parameters())


def test_a_resumed_run_equals_the_uninterrupted_one(recipe, tmp_path):
    config = str(recipe(num_task_layers=1, save_strategy="steps", save_steps=1, num_train_epochs=2))
    main(["--config", config, "--output_dir", str(tmp_path / "whole")])
    whole = MTSBertModel.from_pretrained(tmp_path / "whole")
    assert whole.config.num_task_layers == 1
    main(["--config", config, "--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint",
          str(tmp_path / "whole" / "checkpoint-1")])  # fmt: skip
    resumed = MTSBertModel.from_pretrained(tmp_path / "resumed")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


# What cannot be


@pytest.mark.parametrize("number", [-1, 2, 1.5, "1", True])
def test_an_impossible_number_of_task_layers_is_refused(encoder_folder, tasks, number):
    with pytest.raises(ValueError, match=r"`num_task_layers` is .* copies of 0 to 1"):
        MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=number)


def test_an_encoder_without_a_list_of_layers_is_refused(tokenizer, tasks):
    settings = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = AutoConfig.for_model("albert", **settings, num_hidden_layers=4, embedding_size=16)
    model_config = MTSBertModel.config_class(encoder_config=config, tasks=tasks, num_task_layers=1)
    with pytest.raises(ValueError, match="does not expose a list of its 4 layers: `num_task_layers` cannot"):
        MTSBertModel(model_config)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64),
        Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16, max_position_embeddings=64),
    ],
)
def test_copies_of_the_layers_of_a_decoder_do_not_read_its_keys_again(config, tokenizer, tasks, batch, tmp_path):
    config.vocab_size = len(tokenizer)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = MTSBertModel.from_encoder(str(tmp_path), tasks=tasks, num_task_layers=1).eval()
    with torch.inference_mode():
        _, states, of_heads = model.encode(batch["input_ids"], batch["attention_mask"])
    assert torch.allclose(states, of_heads.texts, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        LongformerConfig(**SMALL, attention_window=8),  # whose layers read texts that are padded to windows
        XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64),  # whose layers have texts in their second dimension
    ],
)
def test_an_encoder_whose_layers_have_states_of_another_shape_is_refused(config, tokenizer, tasks, tmp_path):
    config.vocab_size = len(tokenizer)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Model computes more than its layers and a norm after them"):
        MTSBertModel.from_encoder(str(tmp_path), tasks=tasks, num_task_layers=1)


def test_an_encoder_that_computes_more_than_its_layers_is_refused(encoder_folder, tasks, monkeypatch):
    forward = BertModel.forward

    def doubled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    monkeypatch.setattr(BertModel, "forward", doubled)
    with pytest.raises(ValueError, match="BertModel computes more than its layers and a norm after them"):
        MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=1)


def test_old_checkpoints_have_no_task_layers(config):
    assert config.num_task_layers == 0
    assert MTSBertModel(MTSBertModel.config_class(encoder_config=BertConfig(num_hidden_layers=1))).task_layers is None
