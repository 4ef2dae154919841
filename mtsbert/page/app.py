"""A Gradio page to try an mtsbert model on one or two texts.

`mtsbert demo` serves this page, or copies this file as the `app.py` of a Hub Space. Therefore it imports only gradio,
torch and transformers and nothing else of this project; it also runs as `python app.py`.
"""

from collections.abc import Callable
from functools import partial
from html import escape

import gradio as gr
import torch
from transformers import Pipeline, pipeline


MODEL = "you/model"  # the checkpoint that `python app.py` serves: a Hub id or a folder
REVISION = None  # for a Hub id: the commit whose code and weights are used

EXAMPLES = [
    "Nokia opens a research centre in Nairobi with the University of Oulu",
    "Carla Benítez won the 200 metres in Lisbon on Sunday, beating Kenya's champion by 0.04 seconds",
    "Shares of Hyundai fell 3 percent in Seoul after the company cut its forecast for 2027",
    "Envoys of Norway and Peru met in Geneva to talk about a ceasefire",
]
PAIR_EXAMPLES = [
    ["A plane is taking off", "An aircraft is departing"],
    ["A woman is slicing an onion", "Nobody is in the kitchen"],
    ["Oil prices rose on Monday", "Lima won the final after extra time"],
]
NO_TEXT = "Please write a text first."
NO_PAIR = "Please write both texts first."

# One colour per entity type, in order. Gradio shows the type in white on it, and the text in black on a paler shade.
COLOURS = [
    *("#1d4ed8", "#b91c1c", "#15803d", "#a21caf", "#b45309", "#0f766e", "#6d28d9", "#be185d", "#4d7c0f"),
    *("#0369a1", "#c2410c", "#047857", "#4338ca", "#854d0e", "#9f1239", "#0e7490", "#7e22ce", "#4b5563"),
]
# Options of `launch`. The fonts are system fonts, because Gradio's themes download theirs from the internet.
LOOK = {
    "theme": gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ),
    "footer_links": ["api"],
    "run_history": False,  # it would store the texts in the browser
    "ssr_mode": False,
}


def tasks_of(ask: Pipeline, *types: str) -> dict[str, dict]:
    """Returns the model's tasks of the given types, in the order of its config."""
    return {name: task for name, task in ask.model.config.tasks.items() if task["type"] in types}


def entity_colours(labels: list[str]) -> dict[str, str]:
    """Maps each entity type in the tags `O, B-X, I-X …` to a colour, which depends only on the set of types."""
    types = sorted({label[2:] for label in labels if label != "O"})
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(types)}


def read_text(ask: Pipeline, text: str) -> dict:
    """
    Returns what each component about a single text shows, by task: the spans of the text, or probabilities. Empty if
    there is no text.
    """
    if not text.strip():
        return {}
    answer = ask(text)
    shown = {}
    for task in tasks_of(ask, "token_classification"):
        spans = [{"entity": span["label"], "start": span["start"], "end": span["end"]} for span in answer[task]]
        shown[task] = {"text": text, "entities": spans}
    for task in tasks_of(ask, "sequence_classification"):
        shown[task] = answer[task]["scores"]
    for task in tasks_of(ask, "sequence_regression"):
        shown[task] = f"{answer[task]['score']:.2f}"
    return shown


def compare_texts(ask: Pipeline, first: str, second: str) -> dict:
    """
    Returns what each component about two texts shows, by task, and their `"cosine"`. Empty unless there are two texts.
    """
    if not first.strip() or not second.strip():
        return {}
    answer = ask((first, second))
    u, v = torch.tensor([answer["embedding"], answer["pair_embedding"]])
    shown = {"cosine": f"{torch.cosine_similarity(u, v, dim=0):.2f}"}
    for task, settings in tasks_of(ask, "pair_classification", "pair_similarity").items():
        if settings["type"] == "pair_classification":
            shown[task] = answer[task]["scores"]
        else:
            lowest, highest = settings["score_range"]
            score = lowest + (highest - lowest) * answer[task]["score"]
            shown[task] = f"{min(max(score, lowest), highest):.2f} of {highest:g}"
    return shown


def build_page(ask: Pipeline, title: str) -> gr.Blocks:
    """
    Builds the page, with components for the tasks of the model.

    Args:
        ask ([`MTSBertPipeline`]): `pipeline("multi-task", …)` of the model.
        title (`str`): Name of the model; shown as text, never as HTML.
    """
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{escape(title)}</h1>", padding=False)
        if tasks_of(ask, "sequence_classification", "sequence_regression", "token_classification"):
            with gr.Tab("One text"):
                _text_tab(ask, page)
        with gr.Tab("Two texts"):
            _pair_tab(ask, page)
    return page


def _text_tab(ask: Pipeline, page: gr.Blocks) -> None:
    shown = {}
    with gr.Row():
        with gr.Column(scale=3):
            text = gr.Textbox(EXAMPLES[0], label="Text", lines=4, max_lines=12)
            button = gr.Button("Read", variant="primary")
            note = gr.Markdown(NO_TEXT, visible=False)
        if sequence_tasks := tasks_of(ask, "sequence_classification", "sequence_regression"):
            with gr.Column(scale=2):
                shown |= {task: _probabilities(task, settings) for task, settings in sequence_tasks.items()}
    for task, settings in tasks_of(ask, "token_classification").items():
        colours = entity_colours(settings["labels"])
        shown[task] = gr.HighlightedText(label=task, color_map=colours, combine_adjacent=False)
    _connect(page, button, [text], note, shown, partial(read_text, ask), EXAMPLES, "read")


def _pair_tab(ask: Pipeline, page: gr.Blocks) -> None:
    with gr.Row():
        texts = [gr.Textbox(PAIR_EXAMPLES[0][place], label=f"Text {place + 1}", lines=3) for place in range(2)]
    button = gr.Button("Compare", variant="primary")
    note = gr.Markdown(NO_PAIR, visible=False)
    with gr.Row():
        shown = {"cosine": gr.Label(label="cosine of the two embeddings")}
        for task, settings in tasks_of(ask, "pair_classification", "pair_similarity").items():
            shown[task] = _probabilities(task, settings)
    _connect(page, button, texts, note, shown, partial(compare_texts, ask), PAIR_EXAMPLES, "compare")


def _probabilities(task: str, settings: dict) -> gr.Label:
    # The heading is the most likely label, which makes no sense for a multi-label task.
    return gr.Label(label=task, show_heading=not settings.get("multi_label", False))


def _connect(
    page: gr.Blocks,
    button: gr.Button,
    texts: list[gr.Textbox],
    note: gr.Markdown,
    shown: dict[str, gr.Label | gr.HighlightedText],
    find: Callable[..., dict],
    examples: list,
    api_name: str,
) -> None:
    """Runs `find` and shows its results when the button is clicked, an example is chosen or the page is opened."""

    def answer(*values: str) -> list:
        found = find(*values)
        return [gr.Markdown(visible=not found), *(found.get(task) for task in shown)]

    outputs = [note, *shown.values()]
    gr.Examples(examples, texts, outputs, answer, run_on_click=True, cache_examples=False, preload=False)
    button.click(answer, texts, outputs, api_name=api_name)
    page.load(answer, texts, outputs, api_visibility="private")


if __name__ == "__main__":
    model = pipeline("multi-task", model=MODEL, revision=REVISION, trust_remote_code=True)
    build_page(model, MODEL).launch(**LOOK)
