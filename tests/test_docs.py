"""Runs the Python code blocks of the manual, in order on each page, with a small checkpoint."""

import re

import pytest

from modeling_mtsbert import MTSBertModel


NEWS_TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["World", "Sports", "Business", "Sci/Tech"]},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
}


@pytest.fixture
def folder(encoder_folder, tokenizer, tmp_path, monkeypatch):
    """A folder where `runs/quickstart` is."""
    monkeypatch.chdir(tmp_path)
    MTSBertModel.from_encoder(str(encoder_folder), tasks=NEWS_TASKS).save_pretrained("runs/quickstart")
    tokenizer.save_pretrained("runs/quickstart")
    return tmp_path


@pytest.mark.parametrize(("page", "num_blocks"), [("pipeline.md", 5), ("editing.md", 1)])
def test_the_blocks_of_a_page_run(root, folder, page, num_blocks):
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == num_blocks
    names: dict = {}
    for block in blocks:
        exec(block, names)
    if page == "pipeline.md":
        assert list(names["ask"](names["text"])) == ["embedding", "topic"]
        assert len(names["ask"](names["text"])["topic"]["scores"]) == 2
    else:
        tasks = MTSBertModel.from_pretrained("runs/renamed").config.tasks
        assert list(tasks) == ["subject", "ner"]
        assert tasks["subject"]["labels"] == ["World", "Sports", "Business", "Science"]
        assert tasks["ner"]["labels"] == ["O", "B-PLACE", "I-PLACE"]
