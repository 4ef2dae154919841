"""Prints what a checkpoint predicts for texts: `python recipes/ask.py FOLDER_OR_ID TEXT…`. Needs only transformers."""

import sys

import transformers


def labels_of(found: dict | list) -> list[tuple[str, float]]:
    """Turns the prediction for a task into pairs of text and number: labels and entities with their probabilities."""
    if isinstance(found, list):
        return [(f"{entity['label']} {entity['text']}", entity["score"]) for entity in found]
    if "scores" not in found:  # a number
        return [("", found["score"])]
    labels = found["labels"] if "labels" in found else [found["label"]]
    return [(label, found["scores"][label]) for label in labels if label is not None]  # None: below its threshold


def main(model: str, texts: list[str]) -> None:
    transformers.utils.logging.disable_progress_bar()
    ask = transformers.pipeline("multi-task", model=model, trust_remote_code=True)
    for text, answer in zip(texts, ask(texts), strict=True):
        sys.stdout.write(f"\n{text}\n")
        for task, found in answer.items():
            if task == "embedding":
                continue
            shown = [f"{label} ({score:.2f})" if label else f"{score:.2f}" for label, score in labels_of(found)]
            sys.stdout.write(f"  {task}: {', '.join(shown) or 'none'}\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
