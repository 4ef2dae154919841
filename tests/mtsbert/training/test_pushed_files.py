"""Tests which files of an output folder are pushed."""

import pytest

from mtsbert.training.hub import files_of_model, push_command


@pytest.fixture
def folder(tmp_path):
    names = [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
        *("modeling_mtsbert.py", "handler.py", "modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"),
        *("plots/topic_confusion.png", "all_results.json"),
        *("skipped_rows.jsonl", "predictions.jsonl", "predictions.jsonl.partial/answers.jsonl", "training_args.bin"),
        *("trainer_state.json", "checkpoint-3/model.safetensors", "checkpoint-3/optimizer.pt", "notes.txt", ".env"),
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


PUSHED = [
    *("1_Pooling/config.json", "2_Dense/model.safetensors", "README.md", "all_results.json", "config.json"),
    "handler.py",
    *("model.safetensors", "modeling_mtsbert.py", "modules.json", "plots/topic_confusion.png", "tokenizer.json"),
    "tokenizer_config.json",
]


def test_what_belongs_to_a_model_is_pushed_and_nothing_else(folder):
    assert files_of_model(folder) == PUSHED


def test_the_command_to_push_later_names_the_same_files(folder):
    command = push_command("org/name", folder)
    assert [word for word in command.split() if word != "--include"][5:] == PUSHED
