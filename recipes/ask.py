"""What a checkpoint says about texts: `python recipes/ask.py FOLDER_OR_ID TEXT…`. Needs only transformers."""

import sys

import transformers


def main(model: str, texts: list[str]) -> None:
    transformers.utils.logging.disable_progress_bar()
    ask = transformers.pipeline("multi-task", model=model, trust_remote_code=True)
    for text, answer in zip(texts, ask(texts), strict=True):
        sys.stdout.write(f"\n{text}\n")
        for task, found in answer.items():
            if task == "embedding":
                continue
            labels = found if isinstance(found, list) else [found]
            shown = [
                f"{label['label']} {label.get('text', '')}".strip() + f" ({label['score']:.2f})" for label in labels
            ]
            sys.stdout.write(f"  {task}: {', '.join(shown) or 'none'}\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
