"""Tests the pipeline: order, offsets, long texts, one encoder pass per batch, and the parameters of a call."""

import copy
import importlib.metadata
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from torch.utils.data import IterableDataset
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.pipelines.pt_utils import KeyDataset

from entities_mtsbert import entities_of
from modeling_mtsbert import MTSBertModel
from mtsbert.network.starting_point import check_longest, longest_input


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def pipeline(model, tokenizer):
    return model.as_pipeline(tokenizer)


@pytest.fixture
def word_spotter(pipeline, tokenizer):
    """The pipeline with a token head that calls the word 'oslo' a GPE wherever it stands, whatever is around it."""
    (oslo,) = tokenizer("oslo", add_special_tokens=False)["input_ids"]
    original = pipeline.model.forward

    def forward(input_ids, **inputs):
        output = original(input_ids=input_ids, **inputs)
        scores = torch.zeros_like(output.logits["ner"])
        scores[..., 0] = 5.0
        scores[..., 1] = torch.where(input_ids == oslo, 9.0, 0.0)
        output.logits["ner"] = scores
        return output

    pipeline.model.forward = forward
    return pipeline


def test_the_schema_of_an_answer(pipeline):
    answer = pipeline("Ada Perez joins Nimbus Labs in Oslo")
    assert list(answer) == ["embedding", "topic", "ner"]
    assert len(answer["embedding"]) == 32
    assert sum(x * x for x in answer["embedding"]) == pytest.approx(1.0, abs=1e-5)
    assert set(answer["topic"]) == {"label", "score", "scores"}
    assert answer["topic"]["score"] == max(answer["topic"]["scores"].values())
    assert answer["topic"]["scores"][answer["topic"]["label"]] == answer["topic"]["score"]
    assert sum(answer["topic"]["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    for entity in answer["ner"]:
        assert list(entity) == ["label", "start", "end", "text", "score"]


def test_answers_keep_the_order_of_the_texts_and_do_not_depend_on_the_batch(pipeline):
    texts = ["Lima hosts the race", "Oslo", "Ada Perez sells her shares of Nimbus Labs in Lima", "", "The final"]
    together = pipeline(texts, batch_size=3)
    for text, answer in zip(texts, together, strict=True):
        alone = pipeline(text)
        assert alone["embedding"] == pytest.approx(answer["embedding"], abs=1e-5)
        assert alone["topic"]["scores"] == pytest.approx(answer["topic"]["scores"], abs=1e-5)
        assert [e["text"] for e in alone["ner"]] == [e["text"] for e in answer["ner"]]


def test_no_text_gives_no_answer_and_other_things_are_refused(pipeline):
    assert pipeline([]) == []
    with pytest.raises(ValueError, match="Text 1 is 7; the pipeline takes strings, tuples of two strings, and"):
        pipeline(["Oslo", 7])
    with pytest.raises(TypeError, match=r"no parameters \['aggregation_strategy'\]"):
        pipeline("Oslo", aggregation_strategy="simple")
    with pytest.raises(TypeError, match=r"no parameters \['function_to_apply'\]"):
        pipeline.model.as_pipeline(pipeline.tokenizer, function_to_apply="none")


@pytest.fixture
def shapes(pipeline, monkeypatch) -> list[tuple[int, int]]:
    """Of the encoder's passes: texts and word pieces."""
    passes = []
    forward = pipeline.model.encoder.forward

    def note(*args, **kwargs):
        passes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipeline.model.encoder, "forward", note)
    return passes


def test_one_encoder_pass_per_batch(pipeline, shapes):
    pipeline(["Oslo"] * 10, batch_size=4)
    assert sorted(shapes) == [(2, 3), (4, 3), (4, 3)]  # in any order, on several threads


def test_a_pass_has_as_many_texts_as_its_word_pieces_allow(pipeline, shapes, monkeypatch):
    monkeypatch.setattr("pipeline_mtsbert.TOKENS_PER_THREAD", 20)
    answers = pipeline(["Oslo", "Oslo Oslo Oslo Oslo Oslo Oslo", "Lima Oslo", "Oslo " * 60, "Oslo", "Lima"])
    assert sorted(shapes) == [(1, 62), (2, 8), (3, 3)]
    assert [len(answer["embedding"]) for answer in answers] == [32] * 6


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def answers_by_threads(request, pipeline):
    """What the pipeline says of the same texts with one thread and with two."""
    texts = ["Oslo", "Lima Oslo", "Oslo " * 60, "", "Lima " * 30]
    before = torch.get_num_threads()
    answers = {}
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            with torch.autocast("cpu", request.param, enabled=request.param != torch.float32):
                answers[num_threads] = pipeline(texts, batch_size=1)
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    return answers


def test_passes_side_by_side_answer_as_one_after_another(answers_by_threads):
    alone, beside = (torch.tensor([row["embedding"] for row in rows]) for rows in answers_by_threads.values())
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-6)
    topics = [[row["topic"]["scores"] for row in rows] for rows in answers_by_threads.values()]
    for one, other in zip(*topics, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_what_goes_wrong_in_a_pass_is_raised(pipeline, monkeypatch):
    def fail(**inputs):
        raise MemoryError(f"no room for {tuple(inputs['input_ids'].shape)}")

    monkeypatch.setattr(pipeline.model, "forward", fail)
    with pytest.raises(MemoryError, match="no room for"):
        pipeline(["Oslo", "Lima Oslo"], batch_size=1)


def test_entities_of_a_text_by_hand():
    labels = ["O", "B-GPE", "I-GPE"]
    probabilities = torch.tensor([[0.1, 0.8, 0.1], [0.3, 0.1, 0.6], [0.9, 0.05, 0.05]])
    (found,) = entities_of(["New York won"], [[(0, 3), (4, 8), (9, 12)]], [probabilities.log()], {"labels": labels})
    assert found == [{"label": "GPE", "start": 0, "end": 8, "text": "New York", "score": pytest.approx(0.7)}]


def test_entities_below_the_least_score_are_not_found(pipeline):
    text = "Ada Perez joins Nimbus Labs in Oslo"
    scores = sorted(entity["score"] for entity in pipeline(text)["ner"])
    assert len(set(scores)) > 1
    pipeline.model.config.tasks["ner"]["min_score"] = between = (scores[0] + scores[-1]) / 2
    assert sorted(entity["score"] for entity in pipeline(text)["ner"]) == pytest.approx(
        [score for score in scores if score >= between]
    )


@pytest.mark.parametrize("position", [0, 1, 40, 41, 45, 46, 50, 61, 62, 63, 64, 100, 499])
def test_a_long_text_is_read_to_its_end_and_every_entity_is_found_once(word_spotter, position):
    words = ["final"] * 500
    words[position] = "Oslo"
    text = " ".join(words)
    (found,) = word_spotter(text)["ner"]
    assert text[found["start"] : found["end"]] == found["text"] == "Oslo"
    assert found["start"] == len(" ".join(words[:position])) + bool(position)


@pytest.mark.parametrize("position", [0, 37, 2_500, 4_999])
def test_a_text_of_five_thousand_words_is_read_in_one_call(word_spotter, position):
    words = ["final"] * 5_000
    words[position] = "Oslo"
    (found,) = word_spotter(" ".join(words))["ner"]
    (in_a_short_text,) = word_spotter("final Oslo final")["ner"]
    assert (found["label"], found["text"]) == (in_a_short_text["label"], in_a_short_text["text"]) == ("GPE", "Oslo")
    assert found["start"] == len(" ".join(words[:position])) + bool(position)


def test_windows_of_a_long_text_answer_for_every_piece_once_and_in_order(pipeline, tokenizer):
    text = "The race in Lima ends without a goal " * 60
    windows = pipeline.preprocess([text])
    assert len(windows) > 5
    own = [window["offsets"][position] for window in windows for position in window["own"]]
    assert own == tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.parametrize("broken", ["0.23.1", "0.23.2"])
def test_long_texts_are_refused_with_releases_of_tokenizers_that_lose_parts_of_them(pipeline, monkeypatch, broken):
    monkeypatch.setattr(importlib.metadata, "version", {"tokenizers": broken}.__getitem__)
    with pytest.raises(ImportError, match=f"found tokenizers=={broken}.\n.*loses parts of texts"):
        pipeline("The race in Lima ends without a goal " * 60)
    assert pipeline("Oslo beat Lima")["topic"]


unicode_texts = st.text(
    alphabet=st.one_of(
        st.sampled_from("Oslo Lima \r\n\t\u200b\u0301\u200dé👩🇪🇺שلا中.,-$%"), st.characters(codec="utf-8")
    ),
    max_size=200,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=unicode_texts)
def test_entities_are_slices_of_the_text(pipeline, text):
    with torch.no_grad():
        pipeline.model.heads["ner"].classifier.bias[0] = -1.0  # fewer O: more entities to check
    end = 0
    for entity in pipeline(text)["ner"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert entity["text"].strip()
        assert end <= entity["start"] < entity["end"]
        end = entity["end"]


@pytest.fixture
def pair_pipeline(encoder_folder, tokenizer):
    tasks = {
        "tags": {"type": "sequence_classification", "multi_label": True, "labels": ["x", "y"]},
        "nli": {"type": "pair_classification", "labels": ["no", "yes"]},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
    }
    return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval().as_pipeline(tokenizer)


def test_two_texts_are_compared_as_the_model_compares_them(pair_pipeline, tokenizer):
    answer = pair_pipeline(("Oslo wins", "Lima hosts the race"))
    first, second = (tokenizer(text, return_tensors="pt") for text in ("Oslo wins", "Lima hosts the race"))
    with torch.no_grad():
        output = pair_pipeline.model(
            first["input_ids"],
            first["attention_mask"],
            pair_input_ids=second["input_ids"],
            pair_attention_mask=second["attention_mask"],
        )
    assert list(answer) == ["embedding", "tags", "pair_embedding", "nli", "sts"]
    assert answer["pair_embedding"] == pytest.approx(output.pair_pooler_output[0].tolist(), abs=1e-5)
    probabilities = output.logits["nli"][0].softmax(-1).tolist()
    assert list(answer["nli"]["scores"].values()) == pytest.approx(probabilities, abs=1e-5)
    assert answer["sts"]["score"] == pytest.approx(output.logits["sts"][0].item(), abs=1e-5)


def test_texts_and_pairs_can_be_mixed(pair_pipeline):
    answers = pair_pipeline(["Oslo", ("Oslo", "Oslo"), "Lima"])
    assert [("sts" in answer) for answer in answers] == [False, True, False]
    assert answers[1]["sts"]["score"] == pytest.approx(1.0, abs=1e-5)


def test_several_labels_at_once(pair_pipeline):
    with torch.no_grad():
        pair_pipeline.model.heads["tags"].classifier.weight.zero_()
        pair_pipeline.model.heads["tags"].classifier.bias.copy_(torch.tensor([2.0, -2.0]))
    scores = torch.tensor([2.0, -2.0]).sigmoid().tolist()
    assert pair_pipeline("Oslo")["tags"] == {
        "labels": ["x"],
        "scores": pytest.approx(dict(zip("xy", scores, strict=True))),
    }


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(word_spotter, tokenizer, monkeypatch):
    texts = ["The final in Oslo ends without a goal", "Oslo"]
    expected = [answer["ner"] for answer in word_spotter(texts)]
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    assert [answer["ner"] for answer in word_spotter(texts)] == expected
    assert [[entity["text"] for entity in found] for found in expected] == [["Oslo"], ["Oslo"]]


TEXT = "Ada Perez joins Nimbus Labs in Oslo"


@pytest.fixture
def every_type(checkpoint):
    """The pipeline of a model with a task of every type: topic, ner, tags, follows, near."""
    return MTSBertModel.from_pretrained(checkpoint).as_pipeline()


@pytest.fixture
def computed(every_type) -> list[str]:
    """The heads that ran, in order."""
    heads = []
    for name, head in every_type.model.heads.items():
        head.register_forward_hook(lambda *_, name=name: heads.append(name))
    return heads


@pytest.mark.parametrize(
    ("tasks", "of_text", "of_pair"),
    [
        (None, ["topic", "ner", "tags", "grade"], ["follows", "near", "fits"]),
        (["tags", "topic"], ["topic", "tags"], []),
        ("ner", ["ner"], []),
        (["near"], [], ["near"]),
        ([], [], []),
    ],
)
def test_only_the_tasks_that_are_asked_for_are_computed_and_answered(every_type, computed, tasks, of_text, of_pair):
    answer, compared = every_type([TEXT, ("Oslo", "Lima")], tasks=tasks)
    assert list(answer) == ["embedding", *of_text]
    assert list(compared) == ["embedding", *of_text, "pair_embedding", *of_pair]
    assert computed == [*of_text, *of_pair]  # three texts go through the encoder in one pass
    everything = every_type([TEXT, ("Oslo", "Lima")])
    assert answer == {name: everything[0][name] for name in answer}
    assert compared == {name: everything[1][name] for name in compared}


def test_what_is_chosen_at_construction_holds_until_a_call_says_otherwise(every_type):
    short = every_type.model.as_pipeline(every_type.tokenizer, tasks=["topic", "tags"], top_k=1, threshold=0.9)
    assert list(short(TEXT)) == ["embedding", "topic", "tags"]
    assert len(short(TEXT)["tags"]["scores"]) == 1
    assert short(TEXT)["topic"]["label"] is None
    assert list(short(TEXT, tasks="ner")) == ["embedding", "ner"]
    assert short(TEXT, tasks=None, top_k=None, threshold=None) == every_type(TEXT)
    assert list(short(TEXT)) == ["embedding", "topic", "tags"]


@pytest.fixture
def sure(every_type):
    """The pipeline with the same probabilities for every text: topic 0.25 and 0.75; tags 0.2, 0.9 and 0.6."""
    odds = {"topic": [math.log(1), math.log(3)], "tags": [math.log(p / (1 - p)) for p in (0.2, 0.9, 0.6)]}
    with torch.no_grad():
        for task, logits in odds.items():
            every_type.model.heads[task].classifier.weight.zero_()
            every_type.model.heads[task].classifier.bias.copy_(torch.tensor(logits))
        every_type.model.heads["follows"].classifier.weight.zero_()
        every_type.model.heads["follows"].classifier.bias.copy_(torch.tensor([math.log(3), math.log(2)]))
    return every_type


def nearly(scores: dict[str, float]) -> dict:
    return pytest.approx(scores, abs=1e-6)


def test_the_best_labels_come_first(sure):
    answer = sure(("Oslo", "Lima"), top_k=2)
    assert list(answer["tags"]["scores"]) == ["b", "c"]
    assert answer["tags"] == {"labels": ["b", "c"], "scores": nearly({"b": 0.9, "c": 0.6})}
    assert list(answer["topic"]["scores"]) == ["Sports", "Business"]
    assert answer["topic"]["scores"] == nearly({"Sports": 0.75, "Business": 0.25})
    best = sure(("Oslo", "Lima"), top_k=1)
    assert best["topic"] == {"label": "Sports", "score": pytest.approx(0.75), "scores": nearly({"Sports": 0.75})}
    assert best["follows"] == {"label": "no", "score": pytest.approx(0.6), "scores": nearly({"no": 0.6})}
    assert best["tags"] == {"labels": ["b", "c"], "scores": nearly({"b": 0.9})}
    assert list(sure("Oslo", top_k=9)["tags"]["scores"]) == ["b", "c", "a"]
    assert list(sure("Oslo", top_k=None)["tags"]["scores"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("threshold", "tags", "topic", "follows"),
    [
        (None, ["b", "c"], "Sports", "no"),
        (0.59, ["b", "c"], "Sports", "no"),
        (0.61, ["b"], "Sports", None),
        (0.76, ["b"], None, None),
        ({"tags": 0.1}, ["a", "b", "c"], "Sports", "no"),
        ({"topic": 0.8, "follows": 0.5}, ["b", "c"], None, "no"),
        (1, [], None, None),
    ],
)
def test_labels_below_the_threshold_are_not_given_and_scores_stay(sure, threshold, tags, topic, follows):
    answer = sure(("Oslo", "Lima"), threshold=threshold)
    assert answer["tags"] == {"labels": tags, "scores": nearly({"a": 0.2, "b": 0.9, "c": 0.6})}
    assert answer["topic"]["label"] == topic
    assert answer["topic"]["score"] == pytest.approx(0.75)
    assert answer["follows"] == {
        "label": follows,
        "score": pytest.approx(0.6),
        "scores": nearly({"no": 0.6, "yes": 0.4}),
    }
    assert set(answer["near"]) == {"score"}
    assert answer["fits"] == answer["near"]


def test_a_score_at_the_threshold_is_enough_for_a_label(sure):
    score = sure("Oslo")["topic"]["score"]
    assert sure("Oslo", threshold={"topic": score})["topic"]["label"] == "Sports"


def test_the_threshold_of_entities_stands_in_for_the_least_score_of_the_config(word_spotter):
    (sure,) = word_spotter("final Oslo final")["ner"]
    assert 0.9 < sure["score"] < 0.99
    word_spotter.model.config.tasks["ner"]["min_score"] = 0.99
    assert word_spotter("final Oslo final")["ner"] == []
    assert word_spotter("final Oslo final", threshold={"ner": 0.9})["ner"] == [sure]
    assert word_spotter("final Oslo final", threshold=0.995)["ner"] == []
    assert word_spotter("final Oslo final", threshold={"topic": 0.9})["ner"] == []  # the config's still holds


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tasks": ["topic", "mood"]}, r"`tasks` names tasks .* not have: \['mood'\]; it has \['topic', 'ner',"),
        ({"tasks": "mood"}, r"not have: \['mood'\]"),
        ({"top_k": 0}, "`top_k` is 0; it must be a whole number of at least 1"),
        ({"top_k": 1.5}, "`top_k` is 1.5"),
        ({"top_k": True}, "`top_k` is True"),
        ({"tasks": 5}, r"`tasks` names tasks .* not have: \[5\]"),
        ({"tasks": [["topic"]]}, r"`tasks` names tasks .* not have: \[\['topic'\]\]; it has \['topic', 'ner',"),
        ({"tasks": ["topic", {"ner": 1}]}, r"`tasks` names tasks .* not have: \[\{'ner': 1\}\]"),
        ({"batch_size": -1}, "`batch_size` is -1; it must be a whole number of at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 2.5}, "`batch_size` is 2.5"),
        ({"batch_size": "2"}, "`batch_size` is '2'"),
        ({"threshold": 1.5}, r"`threshold` is 1.5; it must be a probability in \[0, 1\]"),
        ({"threshold": "high"}, "`threshold` is 'high'"),
        ({"threshold": True}, "`threshold` is True"),
        ({"threshold": {"topic": -0.1}}, "`threshold` for task 'topic' is -0.1"),
        ({"threshold": {"topic": None}}, "`threshold` for task 'topic' is None"),
        ({"threshold": {"mood": 0.5}}, r"`threshold` names the task 'mood'; the model has \['topic', 'ner',"),
        ({"threshold": {"near": 0.5}}, "`threshold` names the task 'near', a number, which has no labels"),
        ({"return_embeddings": "torch"}, "`return_embeddings` is 'torch'; it must be True, False or 'numpy'"),
        ({"return_embeddings": None}, "`return_embeddings` is None"),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_a_call_and_at_construction(every_type, parameters, message):
    with pytest.raises(ValueError, match=message):
        every_type(TEXT, **parameters)
    with pytest.raises(ValueError, match=message):
        every_type.model.as_pipeline(every_type.tokenizer, **parameters)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "Text 0 is None; the pipeline takes strings"),
        (5, "Text 0 is 5; the pipeline takes strings"),
        (["Oslo", "Li\ud800ma"], "Text 1 has a half of a surrogate pair, which is no character: .* in position 2"),
        ([("Oslo", "\udfff")], "Text 0 has a half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_named(every_type, inputs, message):
    with pytest.raises(ValueError, match=message):
        every_type(inputs)


def test_a_text_without_a_token_is_answered_alone_as_beside_others(model, tokenizer):
    pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pieces.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    bare = PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", model_max_length=tokenizer.model_max_length
    )
    ask = model.as_pipeline(bare)
    assert ask("") == ask([""])[0] == ask(["", "Oslo"])[0]
    assert ask("")["embedding"] == [0.0] * 32


def test_embeddings_come_as_lists_as_arrays_or_not_at_all(every_type):
    texts = [TEXT, ("Oslo", "Lima")]
    as_lists, as_arrays = every_type(texts), every_type(texts, return_embeddings="numpy")
    for one, other in zip(as_lists, as_arrays, strict=True):
        assert list(one) == list(other)
        for name in ("embedding", "pair_embedding"):
            if name in one:
                assert isinstance(other[name], np.ndarray)
                assert (other[name].dtype, other[name].shape) == (np.float32, (32,))
                assert other[name].tolist() == one[name]
    without = every_type(texts, return_embeddings=False)
    assert [list(answer) for answer in without] == [
        ["topic", "ner", "tags", "grade"],
        ["topic", "ner", "tags", "grade", "follows", "near", "fits"],
    ]
    assert without[1]["near"] == as_lists[1]["near"]


def test_a_text_may_be_a_mapping_as_in_transformers(pipeline, close):
    assert close(pipeline({"text": "Oslo"}), pipeline("Oslo"), 1e-6)
    pair = pipeline(("Oslo", "Rome"))
    assert close(pipeline({"text": "Oslo", "text_pair": "Rome"}), pair, 1e-6)
    assert close(pipeline([{"text": "Oslo", "text_pair": "Rome"}, {"text": "Oslo"}])[0], pair, 1e-6)


@pytest.mark.parametrize("wrong", [{"texts": "Oslo"}, {"text": "Oslo", "label": 1}, {"text_pair": "Oslo"}, {}])
def test_another_mapping_is_refused(pipeline, wrong):
    with pytest.raises(ValueError, match=r"Text 0 is {.*; the pipeline takes strings"):
        pipeline(wrong)


def test_a_table_is_refused(pipeline):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="this is a table; give one of its columns"):
        pipeline(pandas.DataFrame({"text": ["Oslo"]}))
    assert len(pipeline(pandas.DataFrame({"text": ["Oslo", "Rome"]})["text"])) == 2


def test_a_generator_is_answered_while_it_is_read(pipeline, monkeypatch, close):
    monkeypatch.setattr("pipeline_mtsbert.LOOK_AHEAD", 4)
    read = []

    def endless():
        while True:
            read.append(f"Oslo {len(read)}")
            yield read[-1]

    answers = pipeline(endless(), tasks=["topic"])
    first = [next(answers) for _ in range(6)]
    assert len(read) == 8
    assert close(first, pipeline(read[:6], tasks=["topic"]), 1e-5)


def test_a_dataset_of_transformers_is_answered_while_it_is_read(pipeline, close):
    texts = [f"Oslo {number}" for number in range(5)]
    rows = KeyDataset([{"text": text} for text in texts], "text")
    assert close(list(pipeline(rows)), pipeline(texts), 1e-5)


class Lines(IterableDataset):
    """What a torch `DataLoader` reads one after another: it has no length."""

    def __iter__(self):
        return iter(["Oslo", ("Oslo", "Lima"), {"text": "Lima"}])


def test_a_torch_dataset_without_a_length_is_answered_while_it_is_read(pipeline, close):
    assert close(list(pipeline(Lines())), pipeline(list(Lines())), 1e-5)


@pytest.mark.parametrize("wrong", [7, "\ud800", ("Oslo", None)])
def test_a_wrong_text_of_an_iterator_has_the_number_of_its_place(pipeline, monkeypatch, wrong):
    monkeypatch.setattr("pipeline_mtsbert.LOOK_AHEAD", 4)
    texts = [f"Oslo {number}" for number in range(9)]
    answers = pipeline(iter([*texts, wrong, "Lima"]), tasks=["topic"])
    assert len([next(answers) for _ in range(8)]) == 8
    with pytest.raises(ValueError, match=r"^Text 9 "):
        next(answers)


def test_windows_do_not_depend_on_the_side_that_a_tokenizer_cuts(pipeline, close):
    tokenizer = copy.deepcopy(pipeline.tokenizer)
    tokenizer.truncation_side = "left"
    ask = pipeline.model.as_pipeline(tokenizer)
    text = "Ada Perez joins Nimbus Labs in Oslo . " * 20
    assert close(ask(text), pipeline(text), 1e-6)
    assert tokenizer.truncation_side == "left"


def test_the_first_token_is_pooled_wherever_padding_is(model, tokenizer):
    model.config.pooling = "cls"
    states = []
    for side in ("right", "left"):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.padding_side = side
        batch = tokenizer(["Oslo", "Ada Perez joins Nimbus Labs"], padding=True, return_tensors="pt")
        positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        with torch.inference_mode():
            states.append(model(batch["input_ids"], batch["attention_mask"], position_ids=positions).pooler_output)
    assert torch.allclose(*states, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (RobertaConfig(**SMALL, max_position_embeddings=20, pad_token_id=1), 18),
        (MPNetConfig(**SMALL, max_position_embeddings=20), 18),
        (BertConfig(**SMALL, max_position_embeddings=20), 20),
        (DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=20), 20),
    ],
)
def test_positions_that_an_encoder_keeps_back_are_not_used(config, positions, tokenizer, tasks, tmp_path):
    config.vocab_size = len(tokenizer)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = MTSBertModel.from_encoder(str(tmp_path), tasks=tasks).eval()
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 10**30
    ask = model.as_pipeline(tokenizer)
    assert ask.max_length == longest_input(tokenizer, model.config.encoder_config) == positions
    assert len(ask("Ada Perez joins Nimbus Labs in Oslo . " * 20)["embedding"]) == 32
    check_longest(positions, tokenizer, model.config.encoder_config)
    with pytest.raises(ValueError, match=f"this encoder reads from 3 to {positions} tokens"):
        check_longest(positions + 1, tokenizer, model.config.encoder_config)


def test_tokens_without_an_embedding_are_named(model, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["newword"])
    with pytest.raises(ValueError, match=r"tokens up to the id 240, .* for 240\. .*`resize_token_embeddings\(241\)`"):
        check_longest(32, tokenizer, model.config.encoder_config)


@pytest.mark.parametrize("layers", [[-1], [0, -1]])
def test_single_layers_are_asked_for_by_their_index(model, layers):
    batch = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.inference_mode():
        try:
            expected = model.encoder(**batch, output_hidden_states=layers).hidden_states
        except TypeError:
            pytest.skip("this release of transformers takes no list of layers")
        found = model(**batch, output_hidden_states=layers).hidden_states
    assert len(found) == len(expected)
    assert [state is None for state in found] == [state is None for state in expected]
    assert any(state is None for state in found)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True) if one is not None)
