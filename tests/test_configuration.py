"""Tests what a config accepts, rejects and saves."""

import json

import pytest

from configuration_mtsbert import MTSBertConfig, default_tasks


def sequence_task(**changes) -> dict:
    return {"type": "sequence_classification", "labels": ["a", "b"], **changes}


def test_the_default_tasks_are_news_topic_and_18_entity_types():
    tasks = MTSBertConfig().tasks
    assert list(tasks) == ["topic", "ner"]
    assert tasks["topic"]["labels"] == ["World", "Sports", "Business", "Sci/Tech"]
    assert len(tasks["ner"]["labels"]) == 1 + 2 * 18


def test_save_and_load_keep_everything_and_the_order_of_tasks(tmp_path):
    tasks = {"zebra": sequence_task(), "ner": default_tasks()["ner"], "alpha": sequence_task()}
    config = MTSBertConfig(tasks=tasks, pooling="max", normalize=False, head_dropout=0.3)
    config.save_pretrained(tmp_path)
    loaded = MTSBertConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert list(loaded.tasks) == ["zebra", "ner", "alpha"]


def test_a_dict_becomes_the_config_class_of_the_encoder():
    config = MTSBertConfig(encoder_config={"model_type": "distilbert", "dim": 48})
    assert type(config.encoder_config).__name__ == "DistilBertConfig"
    assert config.hidden_size == 48


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_the_config_has_the_sizes_of_its_encoder(family):
    config = MTSBertConfig(encoder_config={"model_type": family, "vocab_size": 70, "max_position_embeddings": 48})
    for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        assert getattr(config, size) == getattr(config.encoder_config, size), size
    assert (config.vocab_size, config.max_position_embeddings) == (70, 48)
    assert "vocab_size" not in config.to_dict()


def test_a_size_that_the_encoder_lacks_is_missing():
    config = MTSBertConfig(encoder_config={"model_type": "funnel"})
    assert not hasattr(config, "max_position_embeddings")


def test_the_config_file_leaves_out_what_every_encoder_has_by_default(tmp_path):
    MTSBertConfig(encoder_config={"model_type": "bert", "hidden_size": 48}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["encoder_config"]
    assert (saved["model_type"], saved["hidden_size"]) == ("bert", 48)
    assert not {"id2label", "return_dict", "transformers_version", "_name_or_path"} & set(saved)


def test_the_attention_implementation_reaches_the_encoder():
    assert MTSBertConfig(attn_implementation="eager").encoder_config._attn_implementation == "eager"


def test_a_subclass_without_an_init_is_checked_and_filled_like_its_parent():
    class Fork(MTSBertConfig):
        model_type = "fork"
        depth: int = 3

    assert (Fork().depth, Fork(depth=4).depth, Fork(pooling="cls").pooling) == (3, 4, "cls")
    assert list(Fork().tasks) == ["topic", "ner"]
    with pytest.raises(ValueError, match="`pooling` is 'sum'"):
        Fork(pooling="sum")


def test_a_fork_keeps_its_own_classes_in_the_auto_map():
    config = MTSBertConfig(auto_map={"AutoModel": "someone/fork--modeling_fork.Forked"})
    assert config.auto_map["AutoModel"] == "someone/fork--modeling_fork.Forked"
    assert config.auto_map["AutoConfig"] == "configuration_mtsbert.MTSBertConfig"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "at least one task"),
        ({"Topic": sequence_task()}, "Task 'Topic': a task's name is lower-case letters"),
        ({"a.b": sequence_task()}, "Task 'a.b': a task's name"),
        ({"items": sequence_task()}, "Task 'items': this name has a meaning of its own"),
        ({"dataset": sequence_task()}, "this name has a meaning of its own"),
        ({"1st": sequence_task()}, "begins with a letter"),
        ({"topic": ["a", "b"]}, "Task 'topic': a task is a mapping with a 'type'"),
        ({"topic": {"labels": ["a", "b"]}}, "a task is a mapping with a 'type'"),
        ({"topic": sequence_task(type="regression")}, "with a 'type', one of .*'regression'"),
        ({"topic": sequence_task(weight=2)}, r"unknown keys \['weight'\]; a sequence_classification task may have"),
        ({"topic": {"type": "sequence_classification"}}, "needs 'labels'"),
        ({"topic": sequence_task(labels=["a", 3])}, "list of non-empty strings"),
        ({"topic": sequence_task(labels=["a"])}, "at least two labels"),
        ({"topic": sequence_task(labels=["a", "a"])}, "at least two labels, each once"),
        ({"topic": sequence_task(hidden_size=0)}, "'hidden_size' is 0"),
        ({"topic": sequence_task(label_smoothing=1.0)}, "'label_smoothing' is 1.0"),
        ({"ner": {"type": "token_classification", "min_score": 1.5}}, r"'min_score' is 1.5; it must lie in \[0, 1\]"),
        ({"topic": sequence_task(min_score=0.5)}, r"unknown keys \['min_score'\]"),
        ({"topic": sequence_task(multi_label="yes")}, "'multi_label' is 'yes'; it must be true or false"),
        ({"topic": sequence_task(class_weights=[1.0])}, "'class_weights' needs a number of 0 or more for each of 2"),
        ({"topic": sequence_task(class_weights=[1.0, -1.0])}, "'class_weights' needs a number"),
        ({"ner": {"type": "token_classification", "labels": ["B-X", "I-X"]}}, "Task 'ner': Labels of a token task"),
        ({"ner": {"type": "token_classification", "multi_label": True}}, r"unknown keys \['multi_label'\]"),
        ({"sts": {"type": "pair_similarity"}}, "needs 'score_range'"),
        ({"sts": {"type": "pair_similarity", "score_range": [5, 0]}}, "needs 'score_range'"),
        ({"sts": {"type": "pair_similarity", "score_range": [0, 5], "labels": ["a", "b"]}}, "unknown keys"),
        ({"sts": {"type": "pair_similarity", "score_range": [0, 5], "loss": "mae"}}, "'loss' is 'mae'; allowed are"),
        ({"sts": {"type": "pair_similarity", "score_range": [0, 5], "scale": 5}}, "'scale' belongs to 'loss: cosent'"),
        ({"fits": {"type": "pair_ranking", "scale": 0}}, "'scale' is 0; it must be a number above 0"),
        ({"fits": {"type": "pair_ranking", "scale": True}}, "'scale' is True"),
        ({"fits": {"type": "pair_ranking", "labels": ["a", "b"]}}, r"unknown keys \['labels'\]"),
        ({"a": {"type": "pair_ranking"}, "b": {"type": "pair_ranking"}}, r"\['a', 'b'\] are all of type"),
        ({"text_negative": {"type": "pair_ranking"}}, "this name has a meaning of its own"),
    ],
)
def test_impossible_tasks_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        MTSBertConfig(tasks=tasks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "sum"}, "`pooling` is 'sum'"),
        ({"head_dropout": 1.0}, "`head_dropout` is 1.0"),
        ({"embedding_size": 0}, "`embedding_size` is 0; it must lie in 1 to 768"),
        ({"embedding_size": True}, "`embedding_size` is True"),
        ({"embedding_size": 769}, "lie in 1 to 768"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MTSBertConfig(**fields)
