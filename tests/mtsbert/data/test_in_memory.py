"""Tests which data in memory is several splits of one dataset, which is several datasets, and what is refused."""

import pytest
from datasets import Dataset, DatasetDict

from mtsbert import MTLTrainingArguments, MTSBertModel, MTSBertTrainer, infer_tasks, load_data
from mtsbert.data.in_memory import as_datasets, specs_of


TOPIC = {"topic": "sequence_classification"}


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"text": ["Oslo beat Lima", "Shares rise"], "topic": ["Sports", "Business"]})


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["train", "test", "unsupervised"], r"\['unsupervised'\]"),
        (["train", "dev"], r"\['dev'\]"),
        (["news", "validation"], r"\['news'\]"),
    ],
)
@pytest.mark.parametrize("kind", [dict, DatasetDict])
def test_splits_beside_what_is_none_are_not_several_datasets(rows, kind, names, others):
    data = kind(dict.fromkeys(names, rows))
    message = rf"has \['{names[0]}', .*, of which {others} are no splits.* rename or leave out the others"
    with pytest.raises(ValueError, match=f"The data {message}"):
        load_data(data, TOPIC)
    with pytest.raises(ValueError, match=f"`news` {message}"):
        load_data({"news": data}, TOPIC)
    with pytest.raises(ValueError, match=rf"has the splits \['{names[0]}', .* one of them, as data\['{names[0]}'\]"):
        as_datasets(data, "train_dataset")


def test_a_dataset_dict_is_always_splits_and_a_dict_of_names_several_datasets(rows):
    names = {"topics": rows, "more": rows}
    with pytest.raises(ValueError, match="give a `dict` with names of your own"):
        load_data(DatasetDict(names), TOPIC)
    with pytest.raises(ValueError, match="Several datasets are a `dict` of names that are no splits"):
        as_datasets(DatasetDict(names), "train_dataset")
    assert load_data(names, TOPIC).dataset_names == ["topics", "more"]
    assert list(as_datasets(names, "train_dataset")) == ["topics", "more"]


def test_every_dataset_may_have_splits_and_be_called_like_one(rows):
    splits = DatasetDict(train=rows, test=rows)
    assert specs_of({"news": splits, "test": {"train": rows}}) == {
        "news": {"dataset": {"train": rows, "test": rows}},
        "test": {"dataset": {"train": rows}},
    }
    assert list(load_data(splits, TOPIC).examples) == ["train", "test"]
    alone = load_data({"test": {"train": rows, "validation": rows}}, TOPIC)
    assert (alone.dataset_names, list(alone.examples)) == (["test"], ["train", "validation"])


@pytest.mark.parametrize(
    "columns", [["text", "topic"], "text", {"data": {"text": "text"}, "more": ["text"]}, {"data": {}, "text": "text"}]
)
def test_columns_that_are_no_mapping_are_refused(rows, columns):
    with pytest.raises(ValueError, match=r"`columns` is .*; it maps columns to 'text', .* or names of datasets to"):
        load_data(rows, TOPIC, columns=columns)


def other_topics(batch: dict) -> dict:
    return {**batch, "topic": [{"Sports": "Play", "Business": "Work"}[topic] for topic in batch["topic"]]}


def test_rows_with_a_transform_are_refused(rows, encoder_folder, tmp_path):
    message = r"Dataset 'data': split 'train' has a transform .* with `dataset.map`"
    with pytest.raises(ValueError, match=message):
        load_data(rows.with_transform(other_topics), TOPIC)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=infer_tasks(rows, TOPIC))
    with pytest.raises(ValueError, match=message):
        MTSBertTrainer(model, MTLTrainingArguments(str(tmp_path)), train_dataset=rows.with_transform(other_topics))
    rows.set_transform(other_topics)
    with pytest.raises(ValueError, match="split 'validation' has a transform"):
        load_data({"news": {"validation": rows}}, TOPIC)
    rows.reset_format()
    assert load_data(rows.map(other_topics, batched=True), TOPIC).tasks["topic"]["labels"] == ["Play", "Work"]


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
def test_rows_with_a_format_are_read_as_without(rows, kind):
    plain, formatted = (load_data(one, TOPIC) for one in (rows, rows.with_format(kind, columns=["text"])))
    assert formatted.tasks == plain.tasks
    assert formatted.examples["train"][:] == plain.examples["train"][:]


@pytest.mark.parametrize("max_length", [2.5, "3", True, -1, 0, 2])
def test_a_max_length_that_is_no_number_of_tokens_is_refused(rows, tokenizer, encoder_folder, tmp_path, max_length):
    with pytest.raises(ValueError, match=f"`max_length` is {max_length!r}; .* whole number of tokens from 3,"):
        load_data(rows, TOPIC, tokenizer, max_length=max_length)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=infer_tasks(rows, TOPIC))
    arguments = MTLTrainingArguments(str(tmp_path))
    with pytest.raises(ValueError, match=f"`max_length` is {max_length!r}; .* reads from 3 to 64 tokens"):
        MTSBertTrainer(model, arguments, train_dataset=rows, max_length=max_length)


@pytest.fixture
def trained(rows, encoder_folder, tmp_path) -> MTSBertTrainer:
    """A Trainer whose training rows have their own names for columns."""
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=infer_tasks(rows, TOPIC))
    named = rows.rename_columns({"text": "body", "topic": "label"})
    arguments = MTLTrainingArguments(str(tmp_path), precision="fp32", disable_tqdm=True, report_to="none")
    return MTSBertTrainer(model, arguments, train_dataset=named, columns={"body": "text", "label": "topic"})


@pytest.mark.parametrize("names", [["body", "label"], ["body"], ["text"], ["text", "label"], ["text", "topic"]])
@pytest.mark.parametrize("is_named", [True, False])
def test_rows_that_are_predicted_may_lack_labels_and_name_columns_as_usual(trained, rows, names, is_named, caplog):
    rows = rows.rename_columns({"text": names[0], "topic": names[-1]} if names[1:] else {"text": names[0]})
    rows = rows.select_columns(names)
    if is_named:  # one of several datasets, each with columns of its own
        trained._reading["columns"] = {"news": trained._reading["columns"], "other": {"x": "text"}}
        rows = {"news": rows}
    assert trained.predict(rows).predictions["topic"].shape == (2, 2)
    assert ("eval_topic_accuracy" in trained.evaluate(rows)) == (len(names) == 2)
    warnings = [record.getMessage() for record in caplog.records if "has no column 'label'" in record.getMessage()]
    name = "news" if is_named else "data"
    assert warnings == [f"Dataset '{name}' has no column 'label': its rows are read without 'topic'."] * (
        0 if names[1:] else 2  # once for each call
    )


def test_texts_that_are_predicted_must_be_there_and_training_rows_have_every_column(trained, rows):
    with pytest.raises(ValueError, match=r"Dataset 'data', split 'test', has no column 'body'; it has \['topic'\]"):
        trained.predict(rows.remove_columns("text"))
    columns = {"text": "text", "label": "topic"}
    with pytest.raises(ValueError, match="split 'train', has no column 'label'"):
        MTSBertTrainer(trained.model, trained.args, train_dataset=rows.select_columns(["text"]), columns=columns)
