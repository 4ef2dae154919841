"""Converts character spans to tags and back, for training, evaluation and inference alike.

Letters used below: `B` texts, `T` positions (word pieces or words), `K` tags.

A span is `{"start": int, "end": int, "label": str}`, in characters of its text, with `end` exclusive. If its label is
None, it is unknown whether an entity is there, and the span is neither learned nor scored. Tags are BIO: `O` outside
of entities, `B-X` for the first position of an entity of type `X`, and `I-X` for those that follow.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from unicodedata import category, normalize

import torch
from torch.nn.utils.rnn import pad_sequence


IGNORE_INDEX = -100
OUTSIDE = "O"
EPSILON = 1e-6  # how near to 0 and 1 a probability may come
TEXTS_PER_DECODING, PLACES_PER_DECODING = 64, 32_768  # positions of a batch, padding included


def bio_labels(types: Sequence[str]) -> list[str]:
    """The tags of these entity types: `["ORG"]` → `["O", "B-ORG", "I-ORG"]`."""
    return [OUTSIDE, *(f"{prefix}-{entity_type}" for entity_type in types for prefix in "BI")]


def entity_types(labels: Sequence[str]) -> list[str]:
    """The entity types of a list of tags, in order: `["O", "B-ORG", "I-ORG"]` → `["ORG"]`."""
    return [label[2:] for label in labels if label.startswith("B-")]


def check_bio_labels(labels: Sequence[str]) -> None:
    """Raises `ValueError` unless `labels` is `O` and a pair `B-X`, `I-X` for every entity type, each once."""
    expected = set(bio_labels(entity_types(labels)))
    if not labels or labels[0] != OUTSIDE or len(set(labels)) != len(labels) or set(labels) != expected:
        raise ValueError(
            f"Labels of a token task are 'O' first, then 'B-X' and 'I-X' for every entity type X, each once; "
            f"got {list(labels)}."
        )


def check_spans(spans: Sequence[dict], text: str) -> None:
    """Raises `ValueError` if a span is empty or lies outside the text, or if spans overlap or are out of order."""
    previous_end = 0
    for span in spans:
        start, end = span["start"], span["end"]
        if any(not isinstance(border, int) or isinstance(border, bool) for border in (start, end)):
            raise ValueError(f"entity {span}: 'start' and 'end' are whole numbers.")
        if not 0 <= start <= len(text) or end > len(text):
            raise ValueError(
                f"entity {span} lies outside the text, which has {len(text)} characters. "
                "Offsets count characters, not bytes."
            )
        if start >= end or not text[start:end].strip():
            raise ValueError(f"entity {span} is empty. An entity covers at least one visible character.")
        if start < previous_end:
            raise ValueError(f"entity {span} overlaps the one before it, or is not in order of position.")
        previous_end = end


def visible_offsets(offsets: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """
    Removes whitespace from both ends of offsets: some tokenizers (byte-level BPE, SentencePiece) include the space in
    front of a word in its first token. A token that is only whitespace becomes empty, like a special token.
    """
    trimmed = [(end - len(text[start:end].lstrip()), text[start:end].strip()) for start, end in offsets]
    return [(start, start + len(piece)) for start, piece in trimmed]


def with_marks(text: str, start: int, end: int) -> int:
    """Moves an end behind marks that a tokenizer drops, or composes with what they follow: `"e\u0301"`, 0, 1 → 2."""
    for mark in text[end:]:
        if category(mark)[0] != "M" and normalize("NFKC", text[start : end + 1]).endswith(normalize("NFKC", mark)):
            break
        end += 1
    return end


class TaggedSpans(NamedTuple):
    """What `spans_to_tags` returns."""

    tags: list[int]
    """
    One tag id per position; `IGNORE_INDEX` for special tokens, for entities that could not be aligned, and where it is
    unknown whether there is an entity.
    """
    num_unaligned: int
    """Number of entities with a border inside a position, or without any position."""
    num_truncated: int
    """Number of entities that end after the last position of a truncated text."""


def spans_to_tags(
    spans: Sequence[dict], offsets: Sequence[tuple[int, int]], label2id: dict[str, int], *, truncated: bool = False
) -> TaggedSpans:
    """Turns spans into one tag id per position.

    An entity is aligned if no position extends across one of its borders. Characters that the tokenizer drops
    (whitespace, control characters, combining marks) do not matter. The positions of an entity that is not aligned are
    ignored in training instead of being labelled `O`.

    Args:
        spans: Entities, sorted and without overlaps (see `check_spans`).
        offsets: `(start, end)` in characters for each position, as a fast tokenizer returns them; empty for special
            tokens.
        label2id: Tag → id.
        truncated (`bool`, *optional*, defaults to `False`): Whether the text continues after the last position.

    Returns:
        [`TaggedSpans`], with as many tags as there are offsets.
    """
    tags = [label2id[OUTSIDE] if start < end else IGNORE_INDEX for start, end in offsets]
    text_end = max((end for _, end in offsets), default=0)
    positions = [position for position, (start, end) in enumerate(offsets) if start < end]
    num_unaligned = num_truncated = first = 0
    for span in spans:
        while first < len(positions) and offsets[positions[first]][1] <= span["start"]:
            first += 1
        last = first
        while last < len(positions) and offsets[positions[last]][0] < span["end"]:
            last += 1
        inside = positions[first:last]
        cut = truncated and span["end"] > text_end
        aligned = inside and offsets[inside[0]][0] >= span["start"] and offsets[inside[-1]][1] <= span["end"]
        known = span["label"] is not None
        num_truncated += known and cut
        num_unaligned += known and not cut and not aligned
        for rank, position in enumerate(inside):
            tag = f"{'I' if rank else 'B'}-{span['label']}"
            tags[position] = label2id[tag] if known and aligned and not cut else IGNORE_INDEX
    return TaggedSpans(tags, num_unaligned, num_truncated)


def tags_to_spans(tags: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[dict]:
    """Turns legal BIO tags into spans; the inverse of `spans_to_tags` for entities that align.

    Args:
        tags: One tag per position. An `I-X` that follows neither `B-X` nor `I-X` raises `ValueError`.
        offsets: `(start, end)` in characters for each position.

    Returns:
        Spans in order. Besides `start`, `end` and `label`, each has the `first` and `last` position that it covers.
    """
    spans, previous = [], OUTSIDE
    for position, (tag, (start, end)) in enumerate(zip(tags, offsets, strict=True)):
        if tag in ("B-", "I-"):
            raise ValueError(f"tag {tag!r} at position {position} names no entity type.")
        if tag.startswith("B-"):
            spans.append({"start": start, "end": end, "label": tag[2:], "first": position, "last": position})
        elif tag.startswith("I-"):
            if previous[2:] != tag[2:]:
                raise ValueError(
                    f"tag {tag!r} at position {position} follows {previous!r}; in BIO, 'I-X' continues 'B-X' or 'I-X'."
                )
            spans[-1].update(end=max(end, spans[-1]["end"]), last=position)
        elif tag != OUTSIDE:
            raise ValueError(f"tag {tag!r} at position {position} is not BIO ('O', 'B-X' or 'I-X').")
        previous = tag
    return spans


def tags_of_characters(tags: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Iterator[str]:
    """
    Lets the first piece of a character decide for those that share it, as in byte-level BPE, so that entities begin
    and end with a character: `["O", "B-X", "I-X"]` at `[(0, 1), (0, 1), (1, 2)]` → `["O", "O", "B-X"]`.
    """
    before, reached = OUTSIDE, 0
    for tag, (start, end) in zip(tags, offsets, strict=True):
        if start < reached:
            tag = OUTSIDE if before == OUTSIDE else f"I-{before[2:]}"
        elif tag.startswith("I-") and before[2:] != tag[2:]:
            tag = f"B-{tag[2:]}"
        before, reached = tag, max(reached, end)
        yield tag


def decode_tags(scores: torch.Tensor, text_mask: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
    """Finds the best legal tag sequence (Viterbi): `I-X` only after `B-X` or `I-X`, and `O` outside of the text.

    Args:
        scores (`torch.Tensor` of shape `(B, T, K)`): Logits or log-probabilities of the tags.
        text_mask (`torch.Tensor` of shape `(B, T)`): True for positions of the text, False for special tokens and
            padding.
        labels: The `K` tags, in the order of the scores.

    Returns:
        `torch.LongTensor` of shape `(B, T)`: tag ids.
    """
    text_mask = text_mask.bool()
    likeliest = scores.argmax(dim=-1).where(text_mask, labels.index(OUTSIDE))
    follows = _may_follow(tuple(labels)).to(scores.device)
    before = torch.nn.functional.pad(likeliest[:, :-1], (1, 0), value=labels.index(OUTSIDE))
    illegal = ~follows[before, likeliest].all(dim=1)
    if illegal.any():  # where the likeliest tags are legal, no other sequence can be better
        likeliest[illegal] = _viterbi(scores[illegal], text_mask[illegal], labels)
    return likeliest


def entity_scores(tags: torch.Tensor, scores: torch.Tensor, settings: dict) -> torch.Tensor:
    """
    Scores entities: by the mean probability of their tags, and if the task has `platt`, by the probability that this
    mean stands for: that type and borders are right (Platt scaling, of the logit of the mean).

    Args:
        tags (`torch.LongTensor` of shape `(B, T)`): What [`decode_tags`] returned.
        scores (`torch.Tensor` of shape `(B, T, K)`): Logits or log-probabilities of the tags.
        settings (`dict`): Settings of the token task.

    Returns:
        `torch.FloatTensor` of shape `(B, T)`: For each position, the score of the entity that it is part of, or 0.
    """
    labels = settings["labels"]
    begins = torch.tensor([label.startswith("B-") for label in labels], device=tags.device)[tags]
    inside = tags != labels.index(OUTSIDE)
    entity = begins.cumsum(dim=1) * inside  # (B, T): its number in the text, from 1; 0 outside
    chosen = scores.float().softmax(dim=-1).gather(2, tags.unsqueeze(2)).squeeze(2)
    empty = torch.zeros(len(tags), tags.shape[1] + 1, device=tags.device)
    means = empty.scatter_add(1, entity, chosen) / empty.scatter_add(1, entity, torch.ones_like(chosen)).clamp(min=1)
    found = means.gather(1, entity)
    if (platt := settings.get("platt")) is not None:
        found = (platt[0] * found.logit(eps=EPSILON) + platt[1]).sigmoid()
    return found * inside


def without_doubtful(tags: torch.Tensor, found: torch.Tensor, settings: dict) -> torch.Tensor:
    """Makes entities `O` whose score, in `found` by [`entity_scores`], is below the threshold of their type."""
    labels, cuts = settings["labels"], settings.get("thresholds", {})
    least = [0.0 if tag == OUTSIDE else cuts.get(tag[2:], settings.get("min_score", 0.0)) for tag in labels]
    least = torch.tensor([cut if cut < 1.0 else torch.inf for cut in least], device=tags.device)  # at 1, never
    return tags.where(found >= least[tags], labels.index(OUTSIDE))


@cache
def _may_follow(labels: tuple[str, ...]) -> torch.Tensor:
    """`(K, K)`: whether the tag of the column may directly follow the tag of the row."""
    return torch.tensor(
        [[not tag.startswith("I-") or before in (tag, f"B-{tag[2:]}") for tag in labels] for before in labels]
    )


def _viterbi(scores: torch.Tensor, text_mask: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
    num_texts, num_positions, num_tags = scores.shape
    inner = torch.tensor([k for k, label in enumerate(labels) if label.startswith("I-")], device=scores.device)
    begin = torch.tensor([labels.index(f"B-{labels[k][2:]}") for k in inner.tolist()], device=scores.device)
    scores = torch.log_softmax(scores.float(), dim=-1)
    only_outside = torch.tensor([0.0 if tag == OUTSIDE else -torch.inf for tag in labels], device=scores.device)
    scores = torch.where(text_mask.unsqueeze(-1), scores, only_outside)  # (B, T, K)

    best = only_outside.expand(num_texts, num_tags)  # score of the best path that ends in each tag
    came_from = torch.empty((num_positions, num_texts, num_tags), dtype=torch.long, device=scores.device)
    for position in range(num_positions):
        step, origin = best.max(dim=-1, keepdim=True)  # every tag but I-X may follow any tag
        step, origin = step.repeat(1, num_tags), origin.repeat(1, num_tags)
        if len(inner):
            begun = best[:, begin] >= best[:, inner]
            step[:, inner] = torch.where(begun, best[:, begin], best[:, inner])
            origin[:, inner] = torch.where(begun, begin, inner)
        best = step + scores[:, position]
        came_from[position] = origin

    tags = torch.empty((num_texts, num_positions), dtype=torch.long, device=scores.device)
    tag = best.argmax(dim=-1)
    for position in reversed(range(num_positions)):
        tags[:, position] = tag
        tag = came_from[position].gather(1, tag.unsqueeze(1)).squeeze(1)
    return tags


def entities_of(
    texts: list[str], offsets: list[list[tuple[int, int]]], scores: list[torch.Tensor], settings: dict
) -> list[list[dict]]:
    """
    The entities of each text.

    Args:
        texts (`list[str]`): The texts.
        offsets (`list[list[tuple[int, int]]]`): Start and end of every position of each text.
        scores (`list[torch.Tensor]` of shapes `(T, K)`): Log-probabilities of the tags at these positions.
        settings (`dict`): Settings of the token task: its labels, its calibration and its thresholds.
    """
    labels, found = settings["labels"], [[] for _ in texts]
    groups: list[list[int]] = []
    for row in sorted((row for row in range(len(texts)) if offsets[row]), key=lambda row: len(offsets[row])):
        if not groups or len(groups[-1]) >= min(TEXTS_PER_DECODING, PLACES_PER_DECODING // len(offsets[row])):
            groups.append([])
        groups[-1].append(row)

    def decode(rows: list[int]) -> None:
        padded = pad_sequence([scores[row] for row in rows], batch_first=True)  # (B, T, K)
        text_mask = torch.arange(padded.shape[1]) < torch.tensor([[len(offsets[row])] for row in rows])
        tags = decode_tags(padded, text_mask, labels)
        for tags_of_text, places in zip(tags, map(offsets.__getitem__, rows), strict=True):
            if any(start < end for (_, end), (start, _) in pairwise(places)):
                names = tags_of_characters([labels[tag] for tag in tags_of_text[: len(places)].tolist()], places)
                tags_of_text[: len(places)] = torch.tensor([labels.index(name) for name in names])
        sure = entity_scores(tags, padded, settings)
        tags = without_doubtful(tags, sure, settings)
        for row, tags_of_text, scores_of_text in zip(rows, tags.tolist(), sure.tolist(), strict=True):
            for span in tags_to_spans([labels[tag] for tag in tags_of_text[: len(offsets[row])]], offsets[row]):
                start, after = span["start"], offsets[row][span["last"] + 1 : span["last"] + 2]
                end = with_marks(texts[row][: after[0][0] if after else None], start, span["end"])
                entity = {"label": span["label"], "start": start, "end": end, "text": texts[row][start:end]}
                found[row].append(entity | {"score": scores_of_text[span["first"]]})

    side_by_side(decode, groups, torch.device("cpu"))
    return found


def side_by_side(work: Callable, items: list, device: torch.device) -> None:
    """
    Calls `work` on every item, without gradients. On a CPU several items run in parallel with one thread each, which
    is faster than several threads for one item, as these wait for each other. On a GPU items run one after another.
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or min(num_threads, len(items)) < 2:
        with torch.inference_mode():
            for item in items:
                work(item)
        return
    is_autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(item: object) -> None:
        # A new thread has gradients enabled, and does not inherit autocast.
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=is_autocast):
            work(item)

    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            list(threads.map(run, items))  # raises what a thread raised
    finally:
        torch.set_num_threads(num_threads)  # the workers changed what later threads start with
