"""Tests loading the model that a run starts from, and the errors if it does not exist."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    BartConfig,
    BertModel,
    CanineConfig,
    CanineModel,
    CanineTokenizer,
    MambaConfig,
    SqueezeBertConfig,
    T5Config,
    XLNetConfig,
)

from modeling_mtsbert import MTSBertForTokenClassification, MTSBertModel
from mtsbert import MTLTrainingArguments, MTSBertTrainer
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.embedders import plain_encoder
from mtsbert.network.starting_point import (
    check_encoder,
    check_longest,
    check_whole,
    load_encoder_config,
    load_model,
    load_tokenizer,
    resolve_name,
    set_encoder_dropout,
    tasks_of_checkpoint,
    tokenizer_of,
)


def test_a_new_model_takes_its_shape_from_the_arguments(encoder_folder, tasks):
    arguments = ModelArguments(
        encoder_name_or_path=str(encoder_folder), pooling="max", normalize=False, head_dropout=0.25
    )
    config = load_model(arguments, tasks).config
    assert (config.pooling, config.normalize, config.head_dropout) == ("max", False, 0.25)
    assert config.tasks == tasks
    assert load_tokenizer(arguments).is_fast
    assert tasks_of_checkpoint(arguments) is None


def test_a_checkpoint_is_gone_on_from_as_it_is(model, tokenizer, tmp_path, tasks):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    arguments = ModelArguments(encoder_name_or_path="not/used", model_name_or_path=str(tmp_path))
    assert tasks_of_checkpoint(arguments) == tasks
    loaded = load_model(arguments, tasks)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert load_tokenizer(arguments)("Oslo")["input_ids"] == tokenizer("Oslo")["input_ids"]


def dropouts(model) -> set[float]:
    """Of all dropout layers of the encoder, and of the attention that has none of its own."""
    attention = {
        part.config.attention_probs_dropout_prob for part in model.encoder.modules() if hasattr(part, "query")
    }
    return {part.p for part in model.encoder.modules() if isinstance(part, torch.nn.Dropout)} | attention


def test_the_dropout_of_the_encoder_can_be_chosen(encoder_folder, tasks, tokenizer, tmp_path):
    start = {"encoder_name_or_path": str(encoder_folder)}
    model = load_model(ModelArguments(**start, encoder_dropout=0.0), tasks)
    assert dropouts(model) == {0.0}
    assert model.config.head_dropout == 0.1
    assert dropouts(load_model(ModelArguments(**start), tasks)) == {0.1}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = {"model_name_or_path": str(tmp_path)}
    assert dropouts(load_model(ModelArguments(**again), tasks)) == {0.0}
    assert dropouts(load_model(ModelArguments(**again, encoder_dropout=0.2), tasks)) == {0.2}
    copies = load_model(ModelArguments(**start, encoder_dropout=0.0, num_task_layers=1), tasks).task_layers
    assert {part.p for part in copies.modules() if isinstance(part, torch.nn.Dropout)} == {0.0}


def test_the_dropout_of_an_encoder_that_has_none_is_refused():
    config = CanineConfig()
    set_encoder_dropout(config, 0.3)
    assert config.hidden_dropout_prob == 0.3
    with pytest.raises(ValueError, match="`encoder_dropout`: the config of a mamba encoder has none of"):
        set_encoder_dropout(MambaConfig(), 0.3)
    with pytest.raises(ValueError, match=r"`encoder_dropout` is 1.0; it must lie in \[0, 1\)"):
        ModelArguments(encoder_name_or_path="a", encoder_dropout=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_of_16_bits_is_trained_in_32(model, tokenizer, tmp_path, tasks, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(ModelArguments(model_name_or_path=str(tmp_path)), tasks)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert torch.equal(
        loaded.encoder.get_input_embeddings().weight.to(dtype), model.encoder.get_input_embeddings().weight
    )


@pytest.mark.parametrize("setting", [{"pooling": "max"}, {"num_task_layers": 1}, {"embedding_size": 8}])
def test_settings_of_a_new_model_must_be_those_of_the_checkpoint(model, tokenizer, tmp_path, setting):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    same = ModelArguments(model_name_or_path=str(tmp_path), pooling="mean", num_task_layers=0, embedding_size=32)
    assert load_tokenizer(same).is_fast
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"`{name}` is {value!r}, and the checkpoint .*which only a new model can"):
        load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path), **setting))


@pytest.mark.parametrize("name", ["no-such-folder/encoder", "/no/such/encoder"])
def test_an_unknown_encoder_is_named(name, tasks):
    arguments = ModelArguments(encoder_name_or_path=name)
    with pytest.raises(ValueError, match=f"Unknown encoder '{name}': it is no folder with a config.json, no Hub id"):
        load_tokenizer(arguments)
    with pytest.raises(ValueError, match=f"Unknown encoder '{name}'"):
        load_model(arguments, tasks)


@pytest.mark.parametrize("name", ["package:no_such_package/model", "package:"])
def test_an_encoder_in_a_package_that_is_not_installed_is_named(name):
    with pytest.raises(ValueError, match=r"no Python package '.*' is installed. `make weights`"):
        resolve_name(name)


def test_a_package_without_a_model_is_named():
    with pytest.raises(ValueError, match="the package 'transformers' has no model in its folder 'models'"):
        resolve_name("package:transformers/models")


@pytest.mark.weights
def test_weights_inside_a_package_are_found(minilm):
    arguments = ModelArguments(encoder_name_or_path=minilm)
    assert load_tokenizer(arguments).is_fast
    assert load_model(arguments, None).config.hidden_size == 384


def test_a_slow_tokenizer_is_refused(tmp_path):
    config = CanineConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    CanineModel(config).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(CanineTokenizer\) is a slow one"):
        load_tokenizer(ModelArguments(encoder_name_or_path=str(tmp_path)))


def test_an_encoder_without_a_tokenizer_is_named(encoder_folder, tmp_path):
    BertModel.from_pretrained(encoder_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="No tokenizer found for"):
        load_tokenizer(ModelArguments(encoder_name_or_path=str(tmp_path)))


def test_a_bare_encoder_is_no_checkpoint(encoder_folder):
    arguments = ModelArguments(model_name_or_path=str(encoder_folder))
    with pytest.raises(ValueError, match=r"is a 'bert' model, not an mtsbert checkpoint.*--encoder_name_or_path"):
        load_tokenizer(arguments)
    with pytest.raises(ValueError, match="No checkpoint found under '/no/such/folder'"):
        tasks_of_checkpoint(ModelArguments(model_name_or_path="/no/such/folder"))


def test_a_checkpoint_gets_fresh_heads_for_new_tasks_and_keeps_the_others(model, tmp_path, tasks):
    model.save_pretrained(tmp_path)
    new = {"sts": {"type": "pair_similarity", "score_range": [0, 1]}}
    new["mood"] = {"type": "sequence_classification", "labels": ["bad", "good"]}
    loaded = load_model(ModelArguments(model_name_or_path=str(tmp_path)), {**tasks, **new})
    assert list(loaded.config.tasks) == ["topic", "ner", "sts", "mood"]
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert loaded.heads["mood"].classifier.weight.std() > 0


def test_an_encoder_stored_in_half_precision_is_trained_in_float32(encoder_folder, tmp_path, tokenizer):
    BertModel.from_pretrained(encoder_folder).half().save_pretrained(tmp_path)
    model = load_model(ModelArguments(encoder_name_or_path=str(tmp_path)), None)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(**tokenizer("Oslo", return_tensors="pt"))


@pytest.mark.parametrize("max_length", [2, 65])
def test_a_length_that_the_encoder_cannot_read_is_named(encoder_folder, tokenizer, max_length):
    encoder = load_encoder_config(ModelArguments(encoder_name_or_path=str(encoder_folder)))
    with pytest.raises(ValueError, match=f"`max_length` is {max_length}; this encoder reads from 3 to 64 tokens"):
        check_longest(max_length, tokenizer, encoder)
    check_longest(64, tokenizer, encoder)


def model_on(config, tokenizer, tasks, folder):
    config.vocab_size = len(tokenizer)
    AutoModel.from_config(config).save_pretrained(folder)
    return MTSBertModel.from_encoder(str(folder), tasks=tasks).eval()


def test_where_neither_encoder_nor_tokenizer_has_a_limit_texts_are_read_whole(tokenizer, tasks, tmp_path):
    config = XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64)  # whose `max_position_embeddings` is -1
    model = model_on(config, tokenizer, tasks, tmp_path)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 10**30
    check_longest(10_000, tokenizer, model.config.encoder_config)
    (window,) = model.as_pipeline(tokenizer).preprocess(["Oslo beat Lima . " * 100])
    assert len(window["inputs"]["input_ids"]) == 402
    tokenizer.model_max_length = 64
    with pytest.raises(ValueError, match="`max_length` is 65; this encoder reads from 3 to 64 tokens"):
        check_longest(65, tokenizer, model.config.encoder_config)


def test_an_encoder_that_asks_for_its_pooler_does_without(tokenizer, tasks, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = model_on(SqueezeBertConfig(**sizes, embedding_size=32), tokenizer, tasks, tmp_path)
    assert not any("pooler" in name for name in model.state_dict())
    with torch.inference_mode():
        assert model(**tokenizer("Oslo", return_tensors="pt")).pooler_output.shape == (1, 32)


def test_an_encoder_that_needs_the_text_of_a_decoder_is_refused(model, tokenizer, tasks, tmp_path):
    t5 = T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match=r"A T5Model turns one text into another.*an encoder only, as BERT"):
        check_encoder(model_on(t5, tokenizer, tasks, tmp_path / "t5"))
    tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="A T5Model turns"):
        plain_encoder(str(tmp_path / "t5"))
    of_trainer = MTSBertModel.from_encoder(str(tmp_path / "t5"), tasks=tasks)
    with pytest.raises(ValueError, match="A T5Model turns"):
        MTSBertTrainer(of_trainer, MTLTrainingArguments(str(tmp_path / "run")), processing_class=tokenizer)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    check_encoder(model_on(BartConfig(**sizes), tokenizer, tasks, tmp_path / "bart"))  # reads the text twice
    check_encoder(model)


def with_compiled_encoder(model):
    model.encoder = torch.compile(model.encoder, backend="eager")
    return model


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda model: torch.compile(model, backend="eager"), "is compiled by `torch.compile`.*set `torch_compile`"),
        (with_compiled_encoder, "is compiled by `torch.compile`"),
        (torch.nn.DataParallel, "this is a DataParallel.*as it was before"),
        (lambda model: MTSBertForTokenClassification(model.config), "this is a MTSBertForTokenClassification"),
        (lambda model: model.encoder, "this is a BertModel.*`MTSBertModel.from_encoder`"),
        (lambda model: "runs/quickstart", "this is a str.*`MTSBertModel.from_pretrained`"),
    ],
)
def test_what_is_no_whole_model_of_ours_is_refused(model, wrap, message):
    with pytest.raises(ValueError, match=message):
        check_whole(wrap(model))


def test_a_class_of_the_users_and_a_model_compiled_in_place_are_whole(model):
    class Mine(MTSBertModel):
        pass

    check_whole(Mine(model.config))
    model.compile(backend="eager")
    check_whole(model)


def sentence_encoder(encoder_folder, folder, pooling, *, modules=(), **settings):
    """A copy of the encoder with the files of sentence-transformers: its pooling, other modules and settings."""
    shutil.copytree(encoder_folder, folder)
    kinds = ["Transformer", "Pooling", *modules]
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.{kind}"} for kind in kinds]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize(
    ("saved", "own"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["max"], "include_prompt": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"word_embedding_dimension": 32}, "mean"),  # as sentence-transformers reads it
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
    ],
)
def test_another_pooling_than_that_of_a_sentence_encoder_is_told(encoder_folder, tasks, tmp_path, caplog, saved, own):
    where = sentence_encoder(encoder_folder, tmp_path / "encoder", saved)
    if own in ("mean", "cls", "max"):
        assert MTSBertModel.from_encoder(where, tasks=tasks).config.pooling == own
        assert "WARNING" not in caplog.text
    else:
        with pytest.raises(ValueError, match=f"`pooling` is '{re.escape(own)}'; allowed are .*: name one of them"):
            MTSBertModel.from_encoder(where, tasks=tasks)
    caplog.clear()
    named = "max" if own == "mean" else "mean"
    assert MTSBertModel.from_encoder(where, tasks=tasks, pooling=named).config.pooling == named
    assert f"{where} embeds texts with the pooling {own!r}; the new model will embed without" in caplog.text


@pytest.mark.parametrize("modules", [(), ("Normalize",)])
def test_a_new_model_is_normalized_as_its_sentence_encoder_unless_it_is_said(
    encoder_folder, tasks, tmp_path, caplog, modules
):
    where = sentence_encoder(encoder_folder, tmp_path / "encoder", {"pooling_mode": "cls"}, modules=modules)
    with caplog.at_level("INFO", "mtsbert"):
        assert MTSBertModel.from_encoder(where, tasks=tasks).config.normalize == bool(modules)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"'pooling': 'cls', 'normalize': {bool(modules)}" in caplog.text
    asked = {"encoder_name_or_path": where, "pooling": "cls", "normalize": not modules}
    assert load_model(ModelArguments(**asked), tasks).config.normalize != bool(modules)
    assert load_model(ModelArguments(encoder_name_or_path=where), tasks).config.pooling == "cls"


def test_what_a_sentence_encoder_has_and_a_new_model_has_not_is_told(encoder_folder, tasks, tmp_path, caplog):
    prompts = {"prompts": {"news": "News: "}, "default_prompt_name": "news", "truncate_dim": 8}
    modules = ("Dense", "Normalize")
    where = sentence_encoder(
        encoder_folder, tmp_path / "encoder", {"pooling_mode": "mean"}, modules=modules, **prompts
    )
    config = MTSBertModel.from_encoder(where, tasks=tasks).config
    assert "with a Dense module and the prompt 'News: ' before each text; the new model will embed" in caplog.text
    assert (config.embedding_size, config.sentence_transformers) == (8, {"prompts": {"news": "News: "}})


def test_a_run_reads_as_many_tokens_as_its_sentence_encoder_unless_it_names_more(
    encoder_folder, tasks, examples, tmp_path
):
    where = sentence_encoder(encoder_folder, tmp_path / "encoder", {"pooling_mode": "mean"})
    Path(where, "sentence_bert_config.json").write_text('{"max_seq_length": 5, "do_lower_case": false}')
    rows = Dataset.from_list(examples)
    arguments = MTLTrainingArguments(str(tmp_path / "run"), disable_tqdm=True)
    for asked, longest, saved in ((None, 5, 5), (4, 4, 5), (9, 9, 9)):
        model = MTSBertModel.from_encoder(where, tasks=tasks)
        trainer = MTSBertTrainer(model, arguments, train_dataset=rows, max_length=asked)
        assert max(map(len, trainer.train_dataset["input_ids"])) == longest
        assert trainer.processing_class.model_max_length == saved


def test_the_tokenizer_is_of_the_commit_that_the_model_is_of(encoder_folder, tasks, tokenizer, tmp_path, monkeypatch):
    """In a cache of the Hub, as its client has left it: of two commits, `main` is the one that reads 16 tokens."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).save_pretrained(tmp_path / "checkpoint")
    for name, source in (("encoder", encoder_folder), ("trained", tmp_path / "checkpoint")):
        folder = tmp_path / f"models--you--{name}"
        for commit, longest in (("a" * 40, 32), ("b" * 40, 16)):
            shutil.copytree(source, folder / "snapshots" / commit)
            copied = copy.deepcopy(tokenizer)
            copied.model_max_length = longest
            copied.save_pretrained(folder / "snapshots" / commit)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("b" * 40)
    for revision, longest in (("a" * 40, 32), ("main", 16)):
        encoder_kwargs = {"revision": revision}
        new = MTSBertModel.from_encoder("you/encoder", tasks=tasks, encoder_kwargs=encoder_kwargs)
        trained = MTSBertModel.from_pretrained("you/trained", revision=revision)
        assert [tokenizer_of(model).model_max_length for model in (new, trained)] == [longest, longest]
        assert trained.as_pipeline().tokenizer.model_max_length == longest
