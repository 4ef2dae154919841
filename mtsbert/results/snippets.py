"""Code snippets for the model card, one for each way of using the checkpoint."""

import json
import shlex

from configuration_mtsbert import (
    PAIR_TYPES,
    SEQUENCE_CLASSIFICATION,
    SEQUENCE_REGRESSION,
    TOKEN_CLASSIFICATION,
    MTSBertConfig,
)


TEXT = "Carla Benítez won the 200 metres in Lisbon on Sunday"
OTHER_TEXT = "A runner from Portugal wins in Lisbon"


COMMIT = "COMMIT"  # placeholder: a card cannot contain the hash of the commit that it is part of


def snippets(config: MTSBertConfig, name: str, *, is_hub_id: bool = False) -> dict[str, tuple[str, str]]:
    """
    Generates the code snippets for a checkpoint.

    Args:
        config ([`MTSBertConfig`]): The config of the checkpoint.
        name (`str`): The Hub id of the model, or the name of its folder.
        is_hub_id (`bool`, *optional*, defaults to `False`): Whether `name` is a Hub id. The code is then pinned to a
            `COMMIT` that the reader fills in.

    Returns:
        `dict[str, tuple[str, str]]`: Title → language and code. `name` is quoted; task names are identifiers and need
        no quoting.
    """
    model, text = json.dumps(name, ensure_ascii=True), json.dumps(TEXT, ensure_ascii=False)
    if is_hub_id:
        model += f', revision="{COMMIT}"'
    found = {"Everything in one pass": ("python", _multi_task(config, model, text))}
    found["As a transformers model"] = ("python", _auto_model(config, model, text))
    found["The standard pipelines"] = ("python", _pipelines(config, model, text))
    found["Sentence embeddings"] = ("python", _sentence_transformer(model, text))
    if config.tasks_of_type(TOKEN_CLASSIFICATION) or config.tasks_of_type(SEQUENCE_CLASSIFICATION):
        found["In a spaCy pipeline"] = ("python", _spacy(config, json.dumps(name), text))
    quoted = shlex.quote(name)
    found["On files, from the command line"] = (
        "bash",
        f"mtsbert predict --model {quoted} --input texts.csv --output answers.jsonl",
    )
    found["As ONNX"] = ("bash", f"mtsbert export --model {quoted} --output onnx")
    return found


def _multi_task(config: MTSBertConfig, model: str, text: str) -> str:
    lines = [
        "from transformers import pipeline",
        "",
        f'ask = pipeline("multi-task", model={model}, trust_remote_code=True)',
        f"answer = ask({text})",
        'answer["embedding"]  # the sentence embedding, a list of numbers',
    ]
    for task, settings in config.tasks.items():
        if settings["type"] == SEQUENCE_CLASSIFICATION:
            shape = '{"labels": [...], "scores": {...}}' if settings.get("multi_label") else '{"label", "score", ...}'
            lines.append(f'answer["{task}"]  # {shape}')
        elif settings["type"] == SEQUENCE_REGRESSION:
            lines.append(f'answer["{task}"]  # {{"score": ...}}')
        elif settings["type"] == TOKEN_CLASSIFICATION:
            lines.append(f'answer["{task}"]  # [{{"label", "start", "end", "text", "score"}}, ...]')
    if any(settings["type"] in PAIR_TYPES for settings in config.tasks.values()):
        lines.append(f"compared = ask(({text}, {json.dumps(OTHER_TEXT)}))  # two texts")
        lines += [f'compared["{task}"]' for task, settings in config.tasks.items() if settings["type"] in PAIR_TYPES]
    return "\n".join(lines)


def _auto_model(config: MTSBertConfig, model: str, text: str) -> str:
    lines = [
        "import torch",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({model}, trust_remote_code=True)",
        f"model = AutoModel.from_pretrained({model}, trust_remote_code=True)",
        "with torch.no_grad():",
        f'    output = model(**tokenizer({text}, return_tensors="pt"))',
        f"output.pooler_output  # (1, {config.embedding_size}): the sentence embedding",
    ]
    for task, settings in config.tasks.items():
        if settings["type"] == SEQUENCE_CLASSIFICATION:
            lines.append(f'output.logits["{task}"]  # (1, {len(settings["labels"])})')
        elif settings["type"] == SEQUENCE_REGRESSION:
            lines.append(f'output.logits["{task}"]  # (1, 1)')
        elif settings["type"] == TOKEN_CLASSIFICATION:
            lines.append(f'output.logits["{task}"]  # (1, word pieces, {len(settings["labels"])})')
    return "\n".join(lines)


def _pipelines(config: MTSBertConfig, model: str, text: str) -> str:
    lines = ["from transformers import pipeline", ""]
    if config.tasks_of_type(SEQUENCE_CLASSIFICATION) or config.tasks_of_type(SEQUENCE_REGRESSION):
        lines.append(f'pipeline("text-classification", model={model}, trust_remote_code=True)({text})')
    if config.tasks_of_type(TOKEN_CLASSIFICATION):
        lines.append(
            f'pipeline("token-classification", model={model}, trust_remote_code=True, '
            f'aggregation_strategy="simple")({text})'
        )
    lines.append(f'pipeline("feature-extraction", model={model}, trust_remote_code=True)({text})')
    return "\n".join(lines)


def _sentence_transformer(model: str, text: str) -> str:
    return f"""from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer({model}, trust_remote_code=True)
embeddings = encoder.encode([{text}, {json.dumps(OTHER_TEXT)}])
encoder.similarity(embeddings, embeddings)"""


def _spacy(config: MTSBertConfig, model: str, text: str) -> str:
    shown = ["doc.ents"] if config.tasks_of_type(TOKEN_CLASSIFICATION) else []
    shown += ["doc.cats"] if config.tasks_of_type(SEQUENCE_CLASSIFICATION) else []
    return f"""import spacy

nlp = spacy.blank("en")
nlp.add_pipe("mtsbert", config={{"model": {model}}})
doc = nlp({text})
{chr(10).join(shown)}"""
