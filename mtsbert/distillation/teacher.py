"""
The answers of a teacher for the training texts, computed once before training and read from disk.

Letters used below: `N` rows, `B` texts of a batch, `T` word pieces of a text, `P` word pieces of all first texts,
`C` classes, `K` tags, `E` numbers of an embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import TOKEN_CLASSIFICATION
from heads_mtsbert import TextStates
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import NO_ROW, ROW
from mtsbert.distillation.losses import TAUGHT_TYPES, answers_of
from mtsbert.network.adapters import merge_adapters
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.embedding_targets import ANSWERS, EMBEDDING, check_input
from mtsbert.network.feature_cache import PLACE, Texts, cache_key, computed_in
from mtsbert.network.starting_point import load_checkpoint_config, open_checkpoint, resolve_name


DTYPE = torch.float16  # on disk: logarithms of probabilities with an error of 0.05 %


class Teacher:
    """
    A checkpoint whose answers another model learns.

    Args:
        model ([`MTSBertModel`]): The checkpoint.
        tasks (`dict[str, dict]`): The tasks of the student that are to be taught.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of both.
        name (`str`): What error messages call the teacher.

    Raises:
        `ValueError`: If the two share no task on single texts, or such a task differs in its type or labels.
    """

    def __init__(self, model: MTSBertModel, tasks: dict[str, dict], tokenizer: PreTrainedTokenizerBase, *, name: str):
        self.model = model.eval()
        self.tokenizer = tokenizer
        own = model.config.tasks
        self.tasks = {task: of for task, of in tasks.items() if task in own and of["type"] in TAUGHT_TYPES}
        if not self.tasks:
            raise ValueError(
                f"`teacher` {name!r} has the tasks {list(own)}, and the model that is trained {list(tasks)}: they "
                "share no task on single texts that could be taught."
            )
        for task, settings in self.tasks.items():
            check_same_answers(task, own[task], settings, name)
        # Task → where its labels are among those of the teacher.
        self.order = {
            task: [own[task]["labels"].index(label) for label in settings["labels"]] if "labels" in settings else [0]
            for task, settings in self.tasks.items()
        }

    @classmethod
    def load(
        cls, args: MTLTrainingArguments, model: MTSBertModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int
    ) -> "Teacher":
        """
        Loads a teacher for a model. It stays on the CPU.

        Args:
            args ([`MTLTrainingArguments`]): `teacher`, a folder or a Hub id, and `distillation_weights`.
            model ([`MTSBertModel`]): The model that is trained.
            tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
            max_length (`int`): Tokens of the longest text, special ones included.

        Raises:
            `ValueError`: If it is no checkpoint, reads other tokens or shorter texts, or its tasks do not fit, see
                [`Teacher`].
        """
        name_or_path, weights = args.teacher, args.distillation_weights
        tasks = {task: settings for task, settings in model.config.tasks.items() if weights.get(task, 1.0)}
        if not tasks:
            raise ValueError(
                "`distillation_weights` are all 0: leave out the `teacher`, from which nothing is learned."
            )
        where = resolve_name(name_or_path)
        try:
            config = load_checkpoint_config(where)
            teacher = merge_adapters(open_checkpoint(where, config, dtype=torch.float32))
            check_input(where, teacher, tokenizer, max_length=max_length, called=f"`teacher` {name_or_path!r}")
        except OSError as error:
            raise ValueError(f"`teacher` {name_or_path!r} cannot be loaded: {error}") from error
        return cls(teacher, tasks, tokenizer, name=name_or_path)

    def embeds(self, model: MTSBertModel, args: MTLTrainingArguments) -> bool:
        """
        Whether the embeddings of a model can be compared with those of the teacher, which may have more numbers.

        Raises:
            `ValueError`: If they cannot, and `embedding_distillation` asks for it.
        """
        sizes = self.model.config.embedding_size, model.config.embedding_size
        if sizes[0] < sizes[1] and args.embedding_distillation:
            raise ValueError(
                f"`teacher`: its embeddings have {sizes[0]} numbers, and the model that is trained has {sizes[1]}. "
                "Leave `embedding_distillation` at 0, or name another `embedding_reference`."
            )
        return sizes[0] >= sizes[1]

    def answers(self, states: TextStates) -> dict[str, torch.Tensor]:
        """By task, the answers `(B, C)` or `(B, T, K)` for states of texts, in the student's order of labels."""
        return {
            task: answers_of(settings, self.model.head_logits(task, states))[..., self.order[task]]
            for task, settings in self.tasks.items()
        }


def check_same_answers(task: str, of_teacher: dict, settings: dict, name: str) -> None:
    """Raises `ValueError` if a task of the teacher has another type or other labels than that of the student."""
    kinds = [(of["type"], bool(of.get("multi_label"))) for of in (of_teacher, settings)]
    if kinds[0] != kinds[1]:
        words = [f"{kind}, with multi_label" if multi else kind for kind, multi in kinds]
        raise ValueError(f"`teacher` {name!r}: its task {task!r} is a {words[0]}, and the one to train a {words[1]}.")
    labels = [of.get("labels", []) for of in (of_teacher, settings)]
    if set(labels[0]) != set(labels[1]):
        alone = [[label for label in one if label not in other] for one, other in (labels, labels[::-1])]
        raise ValueError(
            f"`teacher` {name!r}: its task {task!r} has other labels than the model that is trained. Only the teacher "
            f"has {alone[0]}, and only the model has {alone[1]}. Rename them (`mtsbert edit`), or name the same "
            "`labels` in the recipe."
        )


@dataclass
class TeacherAnswers:
    """
    The answers of a teacher for the rows of a dataset.

    Args:
        texts (`Texts`): The texts of the rows.
        of_texts (`dict[str, torch.Tensor]`): Task → `(N, C)`, for the first text of each row.
        of_tokens (`dict[str, torch.Tensor]`): Token task → `(P, K)`, for the tokens of all first texts.
        embeddings (`torch.Tensor` of shape `(2 N, E)` or `(3 N, E)`): Those of all texts, as in [`EmbeddingTargets`].
        tokenizer (`PreTrainedTokenizerBase`): Used to skip special tokens.
    """

    texts: Texts
    of_texts: dict[str, torch.Tensor]
    of_tokens: dict[str, torch.Tensor]
    embeddings: torch.Tensor
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self):
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}  # which stands for some text
        self._special_ids = torch.tensor(sorted(special))

    def batch(self, places: list[int]) -> dict[str, torch.Tensor]:
        """
        Returns by task the answers `(B, C)` or `(B, T, K)` for the first texts of the rows with these indices, NaN for
        padding and special tokens.
        """
        answers = {task: rows[places].float() for task, rows in self.of_texts.items()}
        spans = [slice(int(self.texts.starts[place]), int(self.texts.starts[place + 1])) for place in places]
        is_special = [
            torch.isin(torch.from_numpy(self.texts.pieces[span]).long(), self._special_ids) for span in spans
        ]
        for task, tokens in self.of_tokens.items():
            answers[task] = torch.nn.utils.rnn.pad_sequence(
                [
                    tokens[span].float().masked_fill(special.unsqueeze(1), torch.nan)
                    for span, special in zip(spans, is_special, strict=True)
                ],
                batch_first=True,
                padding_value=torch.nan,
                padding_side=self.tokenizer.padding_side,
            )
        return answers


@dataclass
class AnswerCollator:
    """Adds the answers of the teacher to each batch, under the key `ANSWERS`."""

    collator: MultiTaskCollator
    answers: TeacherAnswers

    def __call__(self, features: list[dict]) -> dict:
        answers = self.answers.batch([feature[PLACE] for feature in features])
        is_filler = torch.tensor([feature[ROW] == NO_ROW for feature in features])
        for of_task in answers.values():
            of_task[is_filler] = torch.nan
        return self.collator(features) | {ANSWERS: answers}


def open_teacher_answers(
    teacher: Teacher,
    features: Dataset,
    *,
    disk: DiskCache,
    embedding_size: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager],
) -> TeacherAnswers:
    """
    Opens the answers of a teacher from the disk, or computes them in a single pass over the texts and writes them to
    disk. If they do not fit there, they are kept in memory.

    Args:
        teacher ([`Teacher`]): The teacher, in evaluation mode.
        features (`Dataset`): The rows, with `input_ids` and `pair_input_ids`.
        disk ([`DiskCache`]): The folder of all caches, with its size limit.
        embedding_size (`int`): How many numbers of the teacher's embeddings to keep; 0 for none.
        batch_size (`int`): Texts per forward pass.
        autocast (`Callable`): Returns the autocast context that the encoder runs in.

    Raises:
        `ValueError`: If an answer is not a finite number in 16 bits.
    """
    texts = Texts.of(features)
    widths = {task: len(order) for task, order in teacher.order.items()}
    token_tasks = [task for task, settings in teacher.tasks.items() if settings["type"] == TOKEN_CLASSIFICATION]
    # One flat file: the embeddings of all texts, then for each task its answers for first texts, or for their tokens.
    shapes = {EMBEDDING: (texts.num_texts, embedding_size)}
    for task, width in widths.items():
        shapes[task] = (int(texts.starts[texts.num_rows]) if task in token_tasks else texts.num_rows, width)
    sizes = [rows * width for rows, width in shapes.values()]
    begins = dict(zip(shapes, [0, *accumulate(sizes)], strict=False))

    @torch.no_grad()
    def compute() -> Iterator[tuple[int, torch.Tensor]]:
        is_first = texts.by_length < texts.num_rows
        yield from computed(texts.by_length[is_first], has_answers=True)
        if embedding_size:  # no task on single texts reads the second texts of rows
            yield from computed(texts.by_length[~is_first], has_answers=False)

    def computed(chosen: np.ndarray, *, has_answers: bool) -> Iterator[tuple[int, torch.Tensor]]:
        for begin in range(0, len(chosen), batch_size):
            batch = chosen[begin : begin + batch_size]
            ids, mask = texts.padded(batch, teacher.model.device, teacher.tokenizer.padding_side)
            with autocast():
                _, of_embedding, states = teacher.model.encode(ids, mask, for_heads=has_answers)
            embeddings = F.normalize(of_embedding[:, :embedding_size].float(), dim=-1).to(DTYPE).cpu()
            answers = teacher.answers(TextStates(*(of.float() for of in states))) if has_answers else {}
            answers = {task: of_task.to(DTYPE).cpu() for task, of_task in answers.items()}
            is_text = mask.bool().cpu()
            for task, of_task in answers.items():
                if not of_task.isfinite().all():
                    raise ValueError(
                        f"`teacher`: an answer of its task {task!r} is not finite. Are its weights broken?"
                    )
            for row, text in enumerate(map(int, batch)):
                yield begins[EMBEDDING] + text * embedding_size, embeddings[row]
                for task, of_task in answers.items():
                    is_of_tokens = task in token_tasks
                    place = int(texts.starts[text]) if is_of_tokens else text
                    found = of_task[row][is_text[row]] if is_of_tokens else of_task[row]
                    yield begins[task] + place * widths[task], found.flatten()

    with autocast():
        key = _key(teacher, texts, embedding_size)
    numbers = disk.rows(key, compute, num_rows=sum(sizes), width=1, dtype=DTYPE, what="answers of the teacher")
    if numbers is None:
        numbers = torch.zeros(sum(sizes), dtype=DTYPE)
        for first, found in compute():
            numbers[first : first + len(found)] = found
    parts = dict(zip(shapes, numbers.flatten().split(sizes), strict=True))
    parts = {name: part.view(shapes[name]) for name, part in parts.items()}
    embeddings = parts.pop(EMBEDDING)
    of_tokens = {task: parts.pop(task) for task in token_tasks}
    return TeacherAnswers(texts, parts, of_tokens, embeddings, teacher.tokenizer)


def _key(teacher: Teacher, texts: Texts, embedding_size: int) -> str:
    model = teacher.model
    settings = {
        "what": ANSWERS,
        "config": model.config.to_dict(),
        "answers": {task: (teacher.order[task], of.get("score_range")) for task, of in teacher.tasks.items()},
        "width": embedding_size,
        "computed": computed_in(model),
    }
    return cache_key(settings, model.state_dict().values(), texts)
