"""The configuration of an mtsbert model: its encoder, its pooling and its tasks."""

import json
import logging
import math
import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, TRANSFORMERS_DYNAMIC_MODULE_NAME
from transformers.utils.hub import cached_file


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .entities_mtsbert import bio_labels, check_bio_labels, entity_types
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from entities_mtsbert import bio_labels, check_bio_labels, entity_types


POOLINGS = ("mean", "cls", "max")

SEQUENCE_CLASSIFICATION = "sequence_classification"
SEQUENCE_REGRESSION = "sequence_regression"
TOKEN_CLASSIFICATION = "token_classification"
PAIR_CLASSIFICATION = "pair_classification"
PAIR_SIMILARITY = "pair_similarity"
PAIR_RANKING = "pair_ranking"
PAIR_TYPES = (PAIR_CLASSIFICATION, PAIR_SIMILARITY, PAIR_RANKING)
COSINE_TYPES = (PAIR_SIMILARITY, PAIR_RANKING)  # answer with the cosine of two embeddings; no labels, no weights
NUMBER_TYPES = (PAIR_SIMILARITY, SEQUENCE_REGRESSION)  # learn from numbers, of which NaN stands for a missing one
SCORE_TYPES = (*COSINE_TYPES, SEQUENCE_REGRESSION)  # answer with a number alone, and have no labels
MSE, COSENT = "mse", "cosent"
SIMILARITY_LOSSES = (MSE, COSENT)
RESERVED_NAMES = (  # columns, results and parts of answers that stand beside those of the tasks
    *("text", "text_pair", "text_negative", "embedding", "pair_embedding", "length", "dataset", "row"),
    *("input_ids", "pair_input_ids", "negative_input_ids"),
    *("loss", "composite", "all", "type", "training"),
)
CROSS_ENTROPY, FOCAL = CLASSIFIER_LOSSES = ("cross_entropy", "focal")
_CLASSIFIER_KEYS = "type labels hidden_size thresholds class_weights label_smoothing loss focal_gamma".split()
_OF_WHOLE_TEXTS = ("soft_labels", "temperature", "smoothing")
TASK_KEYS = {  # type → the keys that a task of this type may have
    SEQUENCE_CLASSIFICATION: (*_CLASSIFIER_KEYS, *_OF_WHOLE_TEXTS, "multi_label", "pos_weight"),
    TOKEN_CLASSIFICATION: (*_CLASSIFIER_KEYS, "min_score", "platt"),
    PAIR_CLASSIFICATION: (*_CLASSIFIER_KEYS, *_OF_WHOLE_TEXTS, "feature_scale"),
    SEQUENCE_REGRESSION: ("type", "score_range", "hidden_size"),
    PAIR_SIMILARITY: ("type", "score_range", "loss", "scale"),
    PAIR_RANKING: ("type", "scale"),
}
TASK_TYPES = tuple(TASK_KEYS)
CALIBRATIONS = ("temperature", "smoothing", "platt")  # the keys that are fitted after training

NEWS_TOPICS = ["World", "Sports", "Business", "Sci/Tech"]
# fmt: off
ONTONOTES_TYPES = [  # the 18 entity types of OntoNotes 5, which spaCy's English pipelines use
    "CARDINAL", "DATE", "EVENT", "FAC", "GPE", "LANGUAGE", "LAW", "LOC", "MONEY",
    "NORP", "ORDINAL", "ORG", "PERCENT", "PERSON", "PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART",
]
# fmt: on

AUTO_MAP = {
    "AutoConfig": "configuration_mtsbert.MTSBertConfig",
    "AutoModel": "modeling_mtsbert.MTSBertModel",
    "AutoModelForSequenceClassification": "modeling_mtsbert.MTSBertForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_mtsbert.MTSBertForTokenClassification",
}
CUSTOM_PIPELINES = {"multi-task": {"impl": "pipeline_mtsbert.MTSBertPipeline", "pt": ["AutoModel"], "type": "text"}}
# Settings by which a `config.json` would have transformers fetch code, or open other weights than the checkpoint's.
CODE_SETTINGS = ("auto_map", "custom_pipelines", "trust_remote_code")
KERNEL_SETTINGS = tuple(f"{prefix}{kind}_implementation" for kind in ("attn", "experts") for prefix in ("", "_"))
WEIGHTS_SETTING = "transformers_weights"
ST_CONFIG = "config_sentence_transformers.json"
MOST_LETTERS = 64  # the longest task name: it becomes part of file names

logger = logging.getLogger("mtsbert")


def default_tasks() -> dict[str, dict]:
    """The default tasks: the topic of a news text, and named entities of the types that spaCy finds."""
    return {
        "topic": {"type": SEQUENCE_CLASSIFICATION, "labels": list(NEWS_TOPICS)},
        "ner": {"type": TOKEN_CLASSIFICATION, "labels": bio_labels(ONTONOTES_TYPES)},
    }


def check_tasks(tasks: dict[str, dict]) -> None:
    """Raises `ValueError`, naming the task and the remedy, if a model cannot be built from one of the tasks."""
    if not tasks:
        raise ValueError("A model needs at least one task; `tasks` is empty.")
    check_rankings(tasks)
    for name, task in tasks.items():
        try:
            check_task_settings(name, task)
            if task["type"] not in SCORE_TYPES:
                _check_labels(task)
        except ValueError as error:
            raise ValueError(f"Task {name!r}: {error}") from None


def check_rankings(tasks: dict[str, dict]) -> None:
    """Raises `ValueError` if there are several rankings: rows have no label that says which of them they belong to."""
    rankings = [name for name, task in tasks.items() if isinstance(task, dict) and task.get("type") == PAIR_RANKING]
    if len(rankings) > 1:
        raise ValueError(f"{rankings} are all of type {PAIR_RANKING!r}; a model may have one. Drop the others.")


def check_task_settings(name: str, task: dict) -> None:
    """Raises `ValueError` if the name, the type, a key or a setting of a task is wrong. Labels are not checked."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError("a task's name is lower-case letters, digits and '_', and begins with a letter.")
    if len(name) > MOST_LETTERS:
        raise ValueError(f"a task's name has {MOST_LETTERS} letters at most; this one has {len(name)}.")
    if name in RESERVED_NAMES or hasattr(nn.ModuleDict, name):
        raise ValueError("this name has a meaning of its own; choose another for the task.")
    if not isinstance(task, dict) or task.get("type") not in TASK_TYPES:
        raise ValueError(f"a task is a mapping with a 'type', one of {list(TASK_TYPES)}; got {task!r}.")
    if unknown := sorted(set(task) - set(TASK_KEYS[task["type"]])):
        raise ValueError(f"unknown keys {unknown}; a {task['type']} task may have {list(TASK_KEYS[task['type']])}.")
    if (hidden_size := task.get("hidden_size")) is not None and (not isinstance(hidden_size, int) or hidden_size < 1):
        raise ValueError(f"'hidden_size' is {hidden_size!r}; it must be a whole number of at least 1.")
    for key in ("label_smoothing", "smoothing"):
        if not _is_number(smoothing := task.get(key, 0.0)) or not 0.0 <= smoothing < 1.0:
            raise ValueError(f"{key!r} is {smoothing!r}; it must lie in [0, 1).")
    if not _is_number(min_score := task.get("min_score", 0.0)) or not 0.0 <= min_score <= 1.0:
        raise ValueError(f"'min_score' is {min_score!r}; it must lie in [0, 1].")
    platt = task.get("platt", [1.0, 0.0])
    if not isinstance(platt, list | tuple) or len(platt) != 2 or not all(map(_is_number, platt)) or platt[0] <= 0:
        raise ValueError(f"'platt' is {platt!r}; it must be a slope above 0 and an intercept.")
    for key in ("multi_label", "soft_labels"):
        if not isinstance(task.get(key, False), bool):
            raise ValueError(f"{key!r} is {task[key]!r}; it must be true or false.")
    if task.get("soft_labels") and (task.get("multi_label") or task.get("loss") == FOCAL):
        raise ValueError("'soft_labels' are probabilities of one label each: not for 'multi_label' or 'loss: focal'.")
    if task["type"] == PAIR_SIMILARITY or "score_range" in task:
        scores = task.get("score_range")
        are_two = isinstance(scores, list | tuple) and len(scores) == 2 and all(map(_is_number, scores))
        if not are_two or not scores[0] < scores[1]:
            raise ValueError(f"needs 'score_range', the lowest and the highest score, as [0, 5]; got {scores!r}.")
    losses = SIMILARITY_LOSSES if task["type"] == PAIR_SIMILARITY else CLASSIFIER_LOSSES
    if (loss := task.get("loss", losses[0])) not in losses:
        raise ValueError(f"'loss' is {loss!r}; allowed are {list(losses)}.")
    if not _is_number(gamma := task.get("focal_gamma", 0.0)) or gamma < 0:
        raise ValueError(f"'focal_gamma' is {gamma!r}; it must be a number of 0 or more.")
    if "focal_gamma" in task and loss != FOCAL:
        raise ValueError(f"'focal_gamma' belongs to 'loss: {FOCAL}', and the loss is {loss!r}.")
    if "pos_weight" in task and not task.get("multi_label"):
        raise ValueError("'pos_weight' belongs to 'multi_label: true'; single labels have 'class_weights'.")
    for key in ("temperature", "scale", "feature_scale"):
        if not _is_number(factor := task.get(key, 1.0)) or factor <= 0:
            raise ValueError(f"{key!r} is {factor!r}; it must be a number above 0.")
    if "scale" in task and task["type"] == PAIR_SIMILARITY and loss == MSE:
        raise ValueError(f"'scale' belongs to 'loss: {COSENT}', and the loss is {MSE!r}; drop one.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_labels(task: dict) -> None:
    labels = task.get("labels")
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"needs 'labels', a list of non-empty strings; got {labels!r}.")
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ValueError(f"needs at least two labels, each once; got {labels!r}.")
    if task["type"] == TOKEN_CLASSIFICATION:
        check_bio_labels(labels)
    names, cuts = entity_types(labels) if task["type"] == TOKEN_CLASSIFICATION else labels, task.get("thresholds", {})
    if not isinstance(cuts, dict) or not all(_is_number(cut) and 0.0 <= cut <= 1.0 for cut in cuts.values()):
        raise ValueError(f"'thresholds' is {cuts!r}; it maps labels to probabilities in [0, 1].")
    if unknown := [label for label in cuts if label not in names]:
        raise ValueError(f"'thresholds' names {unknown}, and the task has {list(names)}.")
    for key in ("class_weights", "pos_weight"):
        if (weights := task.get(key)) is None:
            continue
        is_one_each = isinstance(weights, list | tuple) and len(weights) == len(labels)
        if not is_one_each or not all(_is_number(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"{key!r} needs a number of 0 or more for each of {len(labels)} labels; got {weights!r}.")


def check_sources(settings: dict[str, Any], where: str = "config.json") -> None:
    """
    Raises `ValueError` if a setting of a `config.json` names code, kernels or weights from elsewhere. The checkpoint's
    own code in `auto_map` is allowed; the config of an encoder must not name any.
    """
    is_encoder = where != "config.json"
    for key, value in settings.items():
        is_kernel = key in KERNEL_SETTINGS and "/" in json.dumps(value)  # `owner/name` on the Hub
        if value and (is_kernel or key == WEIGHTS_SETTING or (is_encoder and key in CODE_SETTINGS)):
            raise ValueError(
                f"{where} has {key!r}: {value!r}. That would fetch code or open other weights, and no checkpoint of "
                "mtsbert says so. Do not use this one unless you know who wrote that, and remove it then."
            )
        if key.endswith("config") and isinstance(value, dict):
            check_sources(value, f"{key} in {where}")


def check_weights(name_or_path: str | Path | None, *, variant: str | None = None, **options) -> None:
    """
    Raises `ValueError` if weights would be read from anything other than the checkpoint's own safetensors files. Even
    with `use_safetensors=True`, transformers opens a single file of any format, and every file that an index names.

    Args:
        name_or_path (`str` or `Path`, *optional*): The folder, file or Hub id that is about to be loaded.
        variant (`str`, *optional*): As for `from_pretrained`: the middle part of the names of the weight files.
        options: Other arguments of `from_pretrained`; those that locate files on the Hub are used.
    """
    if name_or_path is None:
        return
    if Path(name_or_path).is_file():
        parts = [Path(name_or_path).name]
    else:
        for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME):  # the first that is there is read
            if variant is not None:
                stem, _, suffix = name.rpartition(".")
                name = f"{stem}.{variant}.{suffix}"
            if (found := file_of(name_or_path, name, **options)) is not None:
                break
        is_index = found is not None and found.endswith(".json")
        parts = json.loads(Path(found).read_text(encoding="utf-8"))["weight_map"].values() if is_index else []
    own = [part for part in parts if part.endswith(".safetensors") and part == PureWindowsPath(part).name]  # / or \\
    if strange := sorted({*parts} - {*own}):
        raise ValueError(
            f"{name_or_path}: weights are read from safetensors files of the checkpoint alone, and not from {strange}."
        )


def file_of(name_or_path: str | Path, name: str, **options) -> str | None:
    """The path of a file of a folder or Hub id; None if it has none. Takes the options of `from_pretrained`."""
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    hub = {name: options[name] for name in names if name in options}
    quietly = [f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors")]
    return cached_file(name_or_path, name, **hub, **dict.fromkeys(quietly, False))


def with_saved_embedding(given: dict[str, Any], name_or_path: str | Path, **options) -> dict[str, Any]:
    """The given fields of [`MTSBertConfig`], and others as sentence-transformers has saved them with an encoder."""
    files = [file_of(name_or_path, name, **options) for name in ("modules.json", "1_Pooling/config.json", ST_CONFIG)]
    modules, pooling, model = (json.loads(Path(file).read_text(encoding="utf-8")) if file else {} for file in files)
    if not modules or not pooling:
        return given
    switches = [name for name, is_on in pooling.items() if name.startswith("pooling_mode_") and is_on]
    modes = pooling.get("pooling_mode") or [re.sub("^pooling_mode_|_tokens?$", "", name) for name in switches]
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    prompt = (model.get("prompts") or {}).get(model.get("default_prompt_name"))
    own = modes if isinstance(modes, str) else "+".join(modes) or "mean"
    saved = {"pooling": own, "normalize": "Normalize" in kinds, "embedding_size": model.get("truncate_dim")}
    lost = [f"a {kind} module" for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize", "Dropout")]
    lost += [f"the prompt {prompt!r} before each text"] if prompt else []
    lost += [f"the pooling {own!r}"] if own not in POOLINGS or given.get("pooling", own) != own else []
    logger.info(f"{name_or_path}: taken over from sentence-transformers, unless set otherwise: {saved}")
    if lost:
        logger.warning(f"{name_or_path} embeds texts with {' and '.join(lost)}; the new model will embed without.")
    kept = {key: model[key] for key in ("prompts", "similarity_fn_name") if model.get(key)}
    return saved | {"sentence_transformers": kept} | given


class MTSBertConfig(PretrainedConfig):
    r"""
    The configuration of an mtsbert model.

    Args:
        encoder_config (`dict` or `PretrainedConfig`, *optional*, defaults to a BERT of default size):
            Any encoder that `AutoModel.from_config` builds and that returns `last_hidden_state`.
        pooling (`str`, *optional*, defaults to `"mean"`):
            How token states become the sentence embedding: `"mean"` over the attended positions, `"cls"` (the first
            position) or `"max"` over the attended positions.
        normalize (`bool`, *optional*, defaults to `True`):
            Whether the returned sentence embedding is scaled to Euclidean length 1. Classification heads see the
            embedding before it is scaled.
        tasks (`dict[str, dict]`, *optional*, defaults to news topic and named entities):
            Task name → `{"type": ..., ...}`, in order. Names are lower-case identifiers. The types:

            - `"sequence_classification"`: one label per text, or any number of them with `multi_label: true`;
            - `"token_classification"`: `labels` are `O`, then `B-X` and `I-X` for every entity type; entities with a
              score below `min_score` (0 by default) are left out;
            - `"pair_classification"`: one label for two texts, from their embeddings u, v and |u - v|
              (Sentence-BERT, arXiv 1908.10084), times `feature_scale`;
            - `"sequence_regression"`: a number for a text, by the mean squared error in units of `score_range`;
            - `"pair_similarity"`: a score for two texts, the cosine of their embeddings, trained on scores within
              `score_range: [lowest, highest]`. `loss: mse` (default) is the mean squared error against the score
              scaled to [0, 1]. `loss: cosent` only uses the order of the scores: log(1 + Σ exp(`scale` (c_j - c_i)))
              over all pairs i, j of an optimizer step whose scores are s_i > s_j and cosines c_i, c_j;
            - `"pair_ranking"`: the cosine of two texts, trained on pairs that belong together, without labels. Among
              all second texts and hard negatives of an optimizer step, each first text must find its own second text:
              cross-entropy over `scale` times the cosines (arXiv 1705.00652). A model has at most one.

            Classification tasks need `labels` and may have `hidden_size` (the width of a hidden layer in the head),
            `class_weights` (one number per label; with `multi_label` also `pos_weight`), `label_smoothing`, `loss:
            focal`, `soft_labels` (probabilities; not of tokens) and `thresholds` (label or entity type → the score
            that an answer needs; 1: never). Training sets what calibrates scores: `temperature`, `smoothing`, `platt`.
        embedding_size (`int`, *optional*, defaults to the encoder's `hidden_size`):
            How many numbers the sentence embedding has: the first of the pooled state (Matryoshka representations,
            arXiv 2205.13147). They are scaled after that, and pair tasks compare them. Tasks on single texts see the
            whole state.
        head_dropout (`float`, *optional*, defaults to 0.1):
            Dropout probability in front of every classification layer.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the weights of new heads.
        num_task_layers (`int`, *optional*, defaults to 0):
            How many of the encoder's top layers the tasks on single texts have copies of. They read these copies,
            while the sentence embedding and the tasks on pairs read the encoder itself, so that learning the one costs
            the other less. At least one layer is shared.
        embedding_reference (`str`, *optional*):
            The model near whose sentence embeddings those of this one were held in training. Changes nothing.
        distilled_from (`str`, *optional*): The teacher whose answers this model has learned; changes nothing either.
        sentence_transformers (`dict`, *optional*): `prompts` and `similarity_fn_name` for that library alone.

    Raises:
        `ValueError`: If the pooling is unknown, or a model cannot be built from one of the tasks.
    """

    model_type = "mtsbert"
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012
    keys_to_ignore_at_inference = [  # noqa: RUF012
        *("last_hidden_state", "pooler_output", "losses", "pair_pooler_output", "hidden_states", "attentions"),
    ]

    def __init__(
        self,
        *,
        encoder_config: dict | PretrainedConfig | None = None,
        pooling: str = "mean",
        normalize: bool = True,
        tasks: dict | None = None,
        embedding_size: int | None = None,
        head_dropout: float = 0.1,
        initializer_range: float = 0.02,
        num_task_layers: int = 0,
        embedding_reference: str | None = None,
        distilled_from: str | None = None,
        sentence_transformers: dict | None = None,
        **kwargs,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` is {pooling!r}; allowed are {list(POOLINGS)}: name one of them.")
        if not 0.0 <= head_dropout < 1.0:
            raise ValueError(f"`head_dropout` is {head_dropout}; it must lie in [0, 1).")
        tasks = default_tasks() if tasks is None else tasks
        check_tasks(tasks)
        if not isinstance(encoder_config, PretrainedConfig):
            encoder_config = AutoConfig.for_model(**{"model_type": "bert"} | (encoder_config or {}))
        for name in CODE_SETTINGS:  # the encoder is always transformers' own class
            vars(encoder_config).pop(name, None)
        num_layers = getattr(encoder_config, "num_hidden_layers", 1)
        if type(num_task_layers) is not int or not 0 <= num_task_layers < max(num_layers, 1):
            raise ValueError(
                f"`num_task_layers` is {num_task_layers!r}; of the encoder's {num_layers} layers, the tasks may have "
                f"copies of 0 to {num_layers - 1}."
            )
        self.encoder_config = encoder_config
        self.embedding_size = self.hidden_size if embedding_size is None else embedding_size
        if type(self.embedding_size) is not int or not 1 <= self.embedding_size <= self.hidden_size:
            raise ValueError(f"`embedding_size` is {embedding_size!r}; it must lie in 1 to {self.hidden_size}.")
        self.pooling = pooling
        self.normalize = normalize
        self.tasks = deepcopy(tasks)  # training calibrates its own
        self.head_dropout = head_dropout
        self.initializer_range = initializer_range
        self.num_task_layers = num_task_layers
        self.embedding_reference = embedding_reference
        self.distilled_from = distilled_from
        self.sentence_transformers = sentence_transformers or {}
        # A fork's own classes win: its checkpoints carry `auto_map` entries that name them.
        self.auto_map = {**AUTO_MAP, **(kwargs.pop("auto_map", None) or {})}
        self.custom_pipelines = {**CUSTOM_PIPELINES, **(kwargs.pop("custom_pipelines", None) or {})}
        # Sets the encoder's attention implementation too, which is why `encoder_config` comes first.
        super().__init__(**kwargs)
        self.has_other_labels = "num_labels" in kwargs

    def __init_subclass__(cls, **kwargs):
        # From 5.4 on, transformers gives a config class without an `__init__` of its own one that calls no parent's.
        if "__init__" not in vars(cls):
            cls.__init__ = cls.__init__
        super().__init_subclass__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Like `PreTrainedConfig.from_dict`, but refuses settings that name code or files from elsewhere."""
        check_sources(config_dict)
        # A view has written the labels of its head, which the tasks have as well, and which may be others by now.
        dropped = {"id2label", "label2id", "num_labels"} if "tasks" in config_dict else set()
        if not cls.__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # What is loaded by this class is saved with the code of this class, whatever code it came with.
            dropped |= {*CODE_SETTINGS}
        return super().from_dict({name: config_dict[name] for name in config_dict if name not in dropped}, **kwargs)

    def get_text_config(self, decoder=None, encoder=None) -> PretrainedConfig:
        return self.encoder_config.get_text_config(decoder=decoder, encoder=encoder)

    def to_diff_dict(self) -> dict[str, Any]:
        # Releases differ in how much of a config inside another one they leave out; this is the encoder's own way.
        settings = super().to_diff_dict() | {"encoder_config": self.encoder_config.to_diff_dict()}
        del settings["encoder_config"]["transformers_version"]
        return {name: value for name, value in settings.items() if name != "has_other_labels"}

    def to_json_string(self, use_diff: bool = True) -> str:
        # The inherited method sorts every mapping, but tasks have an order: the first of a type is the default head.
        config = json.loads(super().to_json_string(use_diff=use_diff))
        if "tasks" in config:
            config["tasks"] = self.tasks
        return json.dumps(config, indent=2) + "\n"

    # A single-task view has the labels of its head, unless they are set explicitly, as `from_pretrained(num_labels=7)`
    # does. This is noted, since 2 labels are transformers' default.
    @property
    def num_labels(self) -> int | None:
        return None if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        self.id2label = {index: f"LABEL_{index}" for index in range(number)}
        self.label2id = {label: index for index, label in self.id2label.items()}
        self.has_other_labels = True

    # `from_pretrained(folder, calibration=False)` gives the scores as the network computes them.
    @property
    def calibration(self) -> bool:
        return any(key in task for task in self.tasks.values() for key in CALIBRATIONS)

    @calibration.setter
    def calibration(self, wanted: bool) -> None:
        self.forget([] if wanted else list(self.tasks), CALIBRATIONS)

    def forget(self, tasks: list[str], keys: tuple[str, ...] = (*CALIBRATIONS, "thresholds")) -> None:
        """Drops settings of tasks, by default those that were fitted to their scores."""
        kept = {task: {key: value for key, value in self.tasks[task].items() if key not in keys} for task in tasks}
        self.tasks = self.tasks | kept

    def take_other_labels(self, head: str) -> None:
        """Gives a task the labels that were passed to `from_pretrained` of a single-task view, if there are any."""
        labels = list((self.id2label or {}).values())
        is_asked = self.has_other_labels or labels != ["LABEL_0", "LABEL_1"]
        is_number = len(labels) == 1 and self.tasks[head]["type"] == SEQUENCE_REGRESSION
        if is_asked and not is_number and labels not in [task.get("labels") for task in self.tasks.values()]:
            self.forget([head], ("class_weights", "pos_weight", "thresholds", *CALIBRATIONS))
            self.tasks = self.tasks | {head: self.tasks[head] | {"labels": labels}}
            check_tasks(self.tasks)

    # What tools ask of the config of any text encoder; missing where the encoder's has none.
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size, max_position_embeddings = (
        property(lambda config, name=name: getattr(config.encoder_config, name))
        for name in "hidden_size num_hidden_layers num_attention_heads vocab_size max_position_embeddings".split()
    )

    def select_tasks(self, names: str | Iterable[str] | None) -> dict[str, dict]:
        """
        The named tasks with their settings, in the order of the config. None stands for all tasks.

        Raises:
            `ValueError`: If the config has no task of such a name.
        """
        if names is None:
            return self.tasks
        chosen = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
        if unknown := sorted((name for name in chosen if name not in [*self.tasks]), key=str):
            raise ValueError(f"`tasks` names tasks that the model does not have: {unknown}; it has {[*self.tasks]}.")
        return {name: task for name, task in self.tasks.items() if name in chosen}

    def tasks_of_type(self, task_type: str) -> list[str]:
        return [name for name, task in self.tasks.items() if task["type"] == task_type]


MTSBertConfig.register_for_auto_class()
