"""Writes an encoder and a checkpoint with a task of each type: `python write_checkpoint.py FOLDER`."""

import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from configuration_mtsbert import TASK_TYPES
from modeling_mtsbert import MTSBertModel
from mtsbert.letter_case.embedding import read_letter_case


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["Business", "Sports"], "hidden_size": 8},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]},
    "tags": {"type": "sequence_classification", "labels": ["a", "b", "c"], "multi_label": True},
    "follows": {"type": "pair_classification", "labels": ["no", "yes"]},
    "near": {"type": "pair_similarity", "score_range": [0, 5]},
    "fits": {"type": "pair_ranking"},
    "grade": {"type": "sequence_regression", "score_range": [1, 5]},
}
ROWS = [
    ("Nimbus Labs opens an office in Lima", "Business", [(0, 11, "ORG"), (31, 35, "GPE")]),
    ("Oslo beat Lima in the final", "Sports", [(0, 4, "GPE"), (10, 14, "GPE")]),
    ("Shares of Nimbus Labs rise", "Business", [(10, 21, "ORG")]),
    ("The final ends without a goal", "Sports", []),
]


def main(folder: Path) -> None:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words = sorted({word for text, _, _ in ROWS for word in text.lower().split()} - set(letters))
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *words])}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=48)
    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=48,
            initializer_range=0.3,  # wide enough for the answers to differ from text to text
        )
    )
    tokenizer.save_pretrained(folder / "encoder")
    encoder.save_pretrained(folder / "encoder")
    if missing := set(TASK_TYPES) - {task["type"] for task in TASKS.values()}:
        raise AssertionError(f"Add a task of type {sorted(missing)} to `TASKS`: every type is to be tried.")
    settings = {"num_task_layers": 1, "letter_case": True, "initializer_range": 0.3}
    model = MTSBertModel.from_encoder(str(folder / "encoder"), tasks=TASKS, **settings)
    read_letter_case(model, tokenizer).save_pretrained(folder / "checkpoint")
    torch.nn.init.normal_(model.get_input_embeddings().cases, std=0.3)
    model.eval().save_pretrained(folder / "checkpoint")
    rows = []
    for text, topic, spans in ROWS:
        entities = [{"start": start, "end": end, "label": label} for start, end, label in spans]
        rows.append({"text": text, "topic": topic, "ner": entities})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
