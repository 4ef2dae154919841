"""
Loads a checkpoint in all ways that transformers offers, saves it again, and prints the results as JSON.

    python -I open_checkpoint.py FOLDER COPY

Runs with each release of transformers that must be able to load checkpoints, without this repository on `sys.path`.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)


TEXTS = ["Oslo beat Lima in the final", "Shares of Nimbus Labs rise in Łódź", "a", " ".join(["Lima"] * 100)]
PAIR = ("Oslo beat Lima in the final", "Lima beat Oslo")
ENCODER_FACTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")


def numbers(value: object) -> object:
    """Tensors within dictionaries, lists and tuples → numbers, as JSON has them."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: numbers(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(part) for part in value]
    return value if isinstance(value, str | int | None) else float(value)


def open_model(auto_class: type, folder: str) -> torch.nn.Module:
    model, info = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    if any(info.values()):
        raise SystemExit(f"{auto_class.__name__}: {info}")
    if not type(model).__module__.startswith("transformers_modules."):
        raise SystemExit(f"{auto_class.__name__} took {type(model)}, which is not the checkpoint's own class.")
    return model.eval()


@torch.no_grad()
def main(folder: str, copy: str) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found = {
        "config": {"tasks": list(config.tasks), **{fact: getattr(config, fact) for fact in ENCODER_FACTS}},
        "tokenizer": tokenizer(TEXTS, truncation=True, max_length=16, stride=2, return_overflowing_tokens=True)[
            "input_ids"
        ],
    }
    inputs = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    second = tokenizer([PAIR[1]] * 2, return_tensors="pt")
    pairs = {f"pair_{name}": second[name] for name in ("input_ids", "attention_mask")}

    model = open_model(AutoModel, folder)
    output = model(**inputs, **pairs, output_hidden_states=True)
    found["AutoModel"] = {name: output[name] for name in ("pooler_output", "logits", "hidden_states")}
    model.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    again = open_model(AutoModel, copy)(**inputs, **pairs).logits
    if not all(torch.equal(output.logits[task], again[task]) for task in config.tasks):
        raise SystemExit("Saving and loading changed the answers.")

    for auto_class in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        view = open_model(auto_class, folder)
        found[auto_class.__name__] = view(**inputs).logits
        view.save_pretrained(f"{copy}-{auto_class.__name__}")
        if open_model(AutoModel, f"{copy}-{auto_class.__name__}").state_dict().keys() != model.state_dict().keys():
            raise SystemExit(f"Saving {auto_class.__name__} lost weights.")

    options = {"model": folder, "trust_remote_code": True}
    found["text-classification"] = pipeline("text-classification", top_k=None, **options)(TEXTS[:2])
    found["token-classification"] = pipeline("token-classification", aggregation_strategy="simple", **options)(
        TEXTS[:2]
    )
    found["feature-extraction"] = pipeline("feature-extraction", **options)(TEXTS[:2])
    found["multi-task"] = pipeline("multi-task", **options)([*TEXTS, PAIR])
    json.dump(numbers(found), sys.stdout)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
