"""Writes texts as tasks of Label Studio (https://labelstud.io), with the model's answers as predictions to correct.

What Label Studio exports as JSON is read again as a dataset (see `mtsbert/formats/annotations.py`): a column for each
task, called by its name.
"""

from xml.sax.saxutils import quoteattr

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from entities_mtsbert import entity_types
from mtsbert.data.sources import TEXT


def task_of(row: dict, answer: dict, tasks: dict[str, dict], *, model: str, doubt: float) -> dict:
    """
    One text as a task of Label Studio.

    Args:
        row (`dict`): The text under `text`, and other columns, which are shown to nobody and kept.
        answer (`dict`): The pipeline's answer.
        tasks (`dict[str, dict]`): The tasks to label.
        model (`str`): What the prediction is said to come from.
        doubt (`float`): How unsure the model is; the score of the prediction is 1 - this.
    """
    result: list[dict] = []
    for name, settings in tasks.items():
        if settings["type"] == TOKEN_CLASSIFICATION:
            for entity in answer[name]:
                value = {"start": entity["start"], "end": entity["end"], "text": entity["text"]}
                value["labels"] = [entity["label"]]
                result.append(_result(name, "labels", value, len(result), entity["score"]))
        elif settings["type"] == SEQUENCE_CLASSIFICATION:
            given = answer[name]
            chosen = given["labels"] if settings.get("multi_label") else [given["label"]]
            if chosen and chosen[0] is not None:
                score = min(given["scores"][label] for label in chosen)
                result.append(_result(name, "choices", {"choices": chosen}, len(result), score))
    prediction = {"model_version": model, "score": 1.0 - doubt, "result": result}
    return {"data": row, "predictions": [prediction]}


def _result(task: str, kind: str, value: dict, number: int, score: float) -> dict:
    return {
        "id": f"{task}_{number}",
        "from_name": task,
        "to_name": TEXT,
        "type": kind,
        "value": value,
        "score": round(score, 6),
    }


def interface(tasks: dict[str, dict]) -> str:
    """The labelling interface for these tasks, to be pasted into the settings of a project."""
    lines = ["<View>"]
    for name, settings in tasks.items():
        if settings["type"] == TOKEN_CLASSIFICATION:
            labels = "".join(f"<Label value={quoteattr(label)}/>" for label in entity_types(settings["labels"]))
            lines.append(f'  <Labels name={quoteattr(name)} toName="{TEXT}">{labels}</Labels>')
        elif settings["type"] == SEQUENCE_CLASSIFICATION:
            choice = "multiple" if settings.get("multi_label") else "single"
            labels = "".join(f"<Choice value={quoteattr(label)}/>" for label in settings["labels"])
            lines.append(f'  <Choices name={quoteattr(name)} toName="{TEXT}" choice="{choice}">{labels}</Choices>')
    return "\n".join([*lines, f'  <Text name="{TEXT}" value="${TEXT}"/>', "</View>", ""])
