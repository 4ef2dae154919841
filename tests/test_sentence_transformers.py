"""Tests that a checkpoint is a SentenceTransformer, and is still complete after that library has saved it."""

import json

import pytest
import torch
from transformers import set_seed

from modeling_mtsbert import MTSBertModel
from tests.test_doors import PYTHON_FILES, TEXT


TEXTS = [TEXT, "Oslo", "The final ends without a goal in Lima"]
SETTINGS = [  # pooling, whether the embedding is normalised, its size
    *(("mean", True, 32), ("mean", False, 32), ("cls", True, 32)),
    *(("mean", False, 8), ("mean", True, 8), ("max", True, 32)),
]

ENCODE = """
import json
import torch
from sentence_transformers import InputExample, SentenceTransformer
found = {{}}
for folder in {folders!r}:
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    found[folder] = [model.max_seq_length, model.encode({texts!r}).tolist()]
with torch.no_grad():
    model[0].auto_model.encoder.embeddings.word_embeddings.weight.mul_(1.5)  # as if it had been trained
model.save_pretrained({again!r})
json.dump(found, open({answer!r}, "w"))
"""


def test_sentence_transformers_gives_the_same_embeddings_and_keeps_the_heads(
    encoder_folder, tasks, tokenizer, tmp_path, run_elsewhere
):
    expected = {}
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    for pooling, normalize, size in SETTINGS:
        set_seed(1)
        settings = {"pooling": pooling, "normalize": normalize, "embedding_size": size}
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, **settings)
        folder = tmp_path / f"{pooling}_{normalize}_{size}"
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        expected[str(folder)] = model(**batch).pooler_output
    again, answer = tmp_path / "again", tmp_path / "answer.json"
    script = ENCODE.format(folders=list(expected), texts=TEXTS, again=str(again), answer=str(answer))
    run_elsewhere(script)
    for folder, (longest, embeddings) in json.loads(answer.read_text()).items():
        assert longest == tokenizer.model_max_length
        assert torch.allclose(torch.tensor(embeddings), expected[folder], atol=1e-5), folder
        assert len(embeddings[0]) == int(folder.rpartition("_")[2])
    assert sorted(path.name for path in again.glob("*.py")) == PYTHON_FILES
    saved = MTSBertModel.from_pretrained(again)
    assert torch.allclose(saved.get_input_embeddings().weight, 1.5 * model.get_input_embeddings().weight)
    for name, weight in model.heads.state_dict().items():
        assert torch.equal(saved.heads.state_dict()[name], weight), name


@pytest.mark.parametrize("view", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
def test_a_saved_view_is_a_sentence_transformer_too(model, tmp_path, view):
    import modeling_mtsbert

    model.save_pretrained(tmp_path / "whole")
    view_class = getattr(modeling_mtsbert, view.replace("AutoModel", "MTSBert"))
    view_class.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "view")
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / "view" / name).read_text() == (tmp_path / "whole" / name).read_text()
