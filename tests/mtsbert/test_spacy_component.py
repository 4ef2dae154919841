"""Tests that the spaCy component gives the results of the pipeline as spaCy attributes."""

import json

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

import mtsbert.spacy_component  # noqa: F401 (registers the component, as its entry point does where the project is installed)
from modeling_mtsbert import MTSBertModel
from mtsbert.exports.pipeline import load_pipeline


TEXTS = [
    "Ada Perez joins Nimbus Labs in Oslo",
    "Lima",
    "",
    "Ada\u200b Pe\u0301rez 👩‍🚀 wins\r\n\tin Lima's harbour — עיר",
    "Oslo beat Lima in the final. " * 30,
]


@pytest.fixture
def nlp(checkpoint):
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(checkpoint)})
    return nlp


@pytest.fixture(scope="module")
def expected(checkpoint):
    return load_pipeline(str(checkpoint))(TEXTS)


def test_a_document_has_the_answer_of_the_pipeline(nlp, expected, close):
    found_entities = 0
    for text, answer in zip(TEXTS, expected, strict=True):
        doc = nlp(text)
        assert doc.text == text
        assert close(doc._.mtsbert, answer, 1e-5)
        assert np.allclose(doc.vector, answer["embedding"], atol=1e-5)
        assert doc.vector.dtype == np.float32
        scores = {
            f"{task}/{label}": answer[task]["scores"][label]
            for task in ("topic", "tags")
            for label in answer[task]["scores"]
        }
        assert doc.cats == pytest.approx(scores, abs=1e-5)
        for entity in doc.ents:
            overlapping = [
                found
                for found in answer["ner"]
                if found["start"] < entity.end_char and entity.start_char < found["end"]
            ]
            assert entity.label_ in {found["label"] for found in overlapping}
            assert entity.start_char <= min(found["start"] for found in overlapping)
            assert entity.end_char >= max(found["end"] for found in overlapping)
        assert bool(doc.ents) == bool(answer["ner"])
        found_entities += len(doc.ents)
    assert found_entities > 0


def test_a_stream_is_read_in_batches_and_answers_the_same(nlp, expected, close):
    calls = []
    pipeline = nlp.get_pipe("mtsbert").pipeline
    hook = pipeline.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    docs = list(nlp.pipe(TEXTS[:3], batch_size=2))
    hook.remove()
    assert len(calls) == 2
    assert all(close(doc._.mtsbert, answer, 1e-5) for doc, answer in zip(docs, expected[:3], strict=True))


def test_labels_of_a_single_text_task_stand_alone(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(tmp_path)})
    assert set(nlp("Lima hosts the race").cats) == {"Business", "Sports"}


def test_a_saved_pipeline_needs_the_checkpoint_no_more(checkpoint, tmp_path, expected, close):
    moved = tmp_path / "checkpoint"
    MTSBertModel.from_pretrained(checkpoint).save_pretrained(moved)
    load_pipeline(str(checkpoint)).tokenizer.save_pretrained(moved)
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(moved)})
    nlp.to_disk(tmp_path / "pipeline")
    moved.rename(tmp_path / "gone")
    again = spacy.load(tmp_path / "pipeline")
    assert close(again(TEXTS[0])._.mtsbert, expected[0], 1e-5)


def test_a_model_without_entities_leaves_those_of_others(encoder_folder, tokenizer, tmp_path):
    tasks = {"topic": {"type": "sequence_classification", "labels": ["a", "b"]}}
    MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "CITY", "pattern": "Lima"}])
    nlp.add_pipe("mtsbert", config={"model": str(tmp_path)})
    assert [(entity.text, entity.label_) for entity in nlp("Lima hosts the race").ents] == [("Lima", "CITY")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "nowhere"}, "No checkpoint found under 'nowhere'"),
        ({"entity_task": "topic"}, r"`entity_task` is 'topic'; the token classification tasks of .* are \['ner'\]"),
    ],
)
def test_mistakes_are_named_at_the_first_text(checkpoint, config, message):
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(checkpoint), **config})
    with pytest.raises(ValueError, match=message):
        nlp("Lima")


def test_several_processes_answer_too_when_the_model_has_run_before(checkpoint, root, warm_python):
    script = f"""
import spacy, mtsbert.spacy_component
nlp = spacy.blank("en")
nlp.add_pipe("mtsbert", config={{"model": {str(checkpoint)!r}}})
nlp({TEXTS[0]!r})
print([len(doc._.mtsbert["embedding"]) for doc in nlp.pipe({TEXTS[:3]!r}, n_process=2)])
"""
    done = warm_python.run("-c", script, cwd=root)
    assert done.stdout.strip() == "[32, 32, 32]", done.stderr[-2000:]


def test_the_answer_survives_a_trip_through_bytes(nlp, checkpoint):
    doc = nlp(TEXTS[0])
    again = spacy.tokens.Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert json.dumps(again._.mtsbert) == json.dumps(doc._.mtsbert)
    assert [(e.start_char, e.end_char, e.label_) for e in again.ents] == [
        (e.start_char, e.end_char, e.label_) for e in doc.ents
    ]


def test_entities_of_a_ruler_are_kept_if_asked(checkpoint):
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PRODUCT", "pattern": "Oslo"}])
    nlp.add_pipe("mtsbert", config={"model": str(checkpoint), "overwrite": False})
    text = "Ada Perez joins Nimbus Labs in Oslo"
    assert ("Oslo", "PRODUCT") in [(span.text, span.label_) for span in nlp(text).ents]
    alone = spacy.blank("en")
    alone.add_pipe("entity_ruler").add_patterns([{"label": "PRODUCT", "pattern": "Oslo"}])
    alone.add_pipe("mtsbert", config={"model": str(checkpoint)})
    assert ("Oslo", "PRODUCT") not in [(span.text, span.label_) for span in alone(text).ents]


def test_evaluate_reports_entities_and_categories(checkpoint):
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(checkpoint)})
    doc = nlp("Ada Perez joins Nimbus Labs in Oslo")
    marked = Doc(nlp.vocab, words=[token.text for token in doc])
    marked.ents = [Span(marked, span.start, span.end, span.label_) for span in doc.ents]
    marked.cats = {label: float(score == max(doc.cats.values())) for label, score in doc.cats.items()}
    scores = nlp.evaluate([Example(nlp.make_doc(doc.text), marked)])
    assert doc.ents
    assert scores["ents_f"] == 1.0
    num_text_tasks = sum(
        task["type"] == "sequence_classification"
        for task in load_pipeline(str(checkpoint)).model.config.tasks.values()
    )
    assert ("cats_score" in scores) == (num_text_tasks == 1)
