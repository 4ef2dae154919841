"""The heads on top of the encoder, the layers of their own, and methods that add, drop and rename tasks.

Letters used below: `B` texts, `T` word pieces, `H` hidden size, `C` classes, `K` tags.
"""

from copy import deepcopy
from functools import partial
from threading import get_ident
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import (
        COSINE_TYPES,
        PAIR_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_tasks,
    )
    from .entities_mtsbert import OUTSIDE, bio_labels, entity_types
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import (
        COSINE_TYPES,
        PAIR_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_tasks,
    )
    from entities_mtsbert import OUTSIDE, bio_labels, entity_types


class ClassificationHead(nn.Module):
    """Dropout, an optional hidden layer and a linear layer. Works on the states of texts, tokens and pairs alike."""

    def __init__(self, config: MTSBertConfig, task: dict):
        super().__init__()
        input_size = 3 * config.embedding_size if task["type"] == PAIR_CLASSIFICATION else config.hidden_size
        self.dropout = nn.Dropout(config.head_dropout)
        self.hidden = None
        if (hidden_size := task.get("hidden_size")) is not None:
            self.hidden = nn.Linear(input_size, hidden_size)
            input_size = hidden_size
        self.classifier = nn.Linear(input_size, len(task["labels"]) if "labels" in task else 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.dropout(states)
        if self.hidden is not None:
            states = self.dropout(F.gelu(self.hidden(states)))
        return self.classifier(states)


class CosineHead(nn.Module):
    """Cosine similarity of two embeddings `(B, H)`, computed in float32. It is 0 if one of them is the zero vector."""

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(u.float(), v.float(), dim=-1)


class TextStates(NamedTuple):
    """What the heads read: the states of tokens `(B, T, H)` and of texts `(B, H)`, which are not normalised."""

    tokens: torch.Tensor
    texts: torch.Tensor


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pools token states `(B, T, H)` into text states `(B, H)`; 0 for a text without a 1 in the mask `(B, T)`."""
    if pooling == "cls":  # the first position that is no padding, which may be on the left
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), attention_mask.long().argmax(dim=1)]
    mask = attention_mask.unsqueeze(-1).bool()  # (B, T, 1)
    if pooling == "max":
        peaks = hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min).amax(dim=1)
        return torch.where(mask.any(dim=1), peaks, 0.0)
    return hidden.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def num_positions(encoder: nn.Module) -> int | None:
    """
    How many tokens an encoder has positions for; None if it does not say. RoBERTa's and MPNet's positions begin after
    the index of the padding token, so that the first ones of the table are not used.
    """
    for name, table in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return max(getattr(encoder.config, "max_position_embeddings", None) or 0, 0) or None  # -1 of XLNet: no limit


def layer_list(encoder: nn.Module, num_layers: int) -> nn.ModuleList | None:
    """Returns the layers of an encoder, from the bottom; None if it does not have a single list of that length."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    nested = {id(module) for found in lists for module in found.modules() if module is not found}
    outermost = [found for found in lists if id(found) not in nested]
    return outermost[0] if len(outermost) == 1 else None


class TaskLayers(nn.Module):
    """
    Copies of the encoder's top layers, and of the norm that follows them in some encoders, for the heads to read. They
    get the same input as the encoder's own top layers, which are then free to serve the sentence embedding alone.

    Args:
        encoder (`nn.Module`): The encoder. Its own layers stay as they are, but remember the inputs of a pass.
        config ([`MTSBertConfig`]): `num_task_layers` says how many layers are copied.

    Raises:
        `ValueError`: If the encoder does not have a single list of layers.
    """

    def __init__(self, encoder: nn.Module, config: MTSBertConfig):
        super().__init__()
        layers = layer_list(encoder, config.num_hidden_layers)
        if layers is None:
            raise ValueError(
                f"The encoder {type(encoder).__name__} does not expose a list of its {config.num_hidden_layers} "
                "layers: `num_task_layers` cannot be used with it."
            )
        originals = layers[-config.num_task_layers :]
        self._originals = tuple(originals)  # in a tuple, because they are not parts of this module
        self.layers, self.norm = deepcopy(originals), deepcopy(_norm_after(encoder, layers[0]))
        encoder.config.use_cache = False  # of a decoder: its keys and values would be read twice
        # By thread, since a pipeline runs a model in several: the inputs of each original layer in the current pass.
        self._inputs: dict[int, list[tuple[tuple, dict]]] = {}
        for index, layer in enumerate(originals):
            layer.register_forward_pre_hook(partial(self._remember, index), with_kwargs=True)

    def _remember(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs = self._inputs.get(_thread())
        # Activation checkpointing runs the layers again later, when nothing is to be remembered.
        if inputs is not None and len(inputs) == index:
            inputs.append((args, kwargs))

    @torch.no_grad()
    def copy_from(self, encoder: nn.Module) -> None:
        """Takes over the encoder's weights. Raises `ValueError` if the copies compute something else than it does."""
        self.layers.load_state_dict(nn.ModuleList(self._originals).state_dict())
        if self.norm is not None:
            self.norm.load_state_dict(_norm_after(encoder, self._originals[0]).state_dict())
        training = encoder.training
        encoder.eval()
        self.eval().record()
        ids = torch.ones((1, 2), dtype=torch.long, device=next(self.parameters()).device)
        states = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        found = self()
        encoder.train(training)
        self.train(training)
        if found.shape != states.shape or not torch.allclose(found, states, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"The encoder {type(encoder).__name__} computes more than its layers and a norm after them: "
                "`num_task_layers` cannot be used with it."
            )

    def record(self) -> None:
        """Must be called before the encoder's pass that [`~TaskLayers.forward`] builds on, in the same thread."""
        self._inputs[_thread()] = []

    def forward(self) -> torch.Tensor:
        """Returns the states of the tokens `(B, T, H)` for the texts of the encoder's pass that was just recorded."""
        inputs = self._inputs.pop(_thread())
        states = inputs[0][0][0]
        for layer, (args, kwargs) in zip(self.layers, inputs, strict=True):
            states = layer(states, *args[1:], **kwargs)
            states = states[0] if isinstance(states, tuple) else states
        return states if self.norm is None else self.norm(states)


def _thread() -> int:
    """Identifies the current thread; always 0 while a model is compiled, which cannot ask."""
    return 0 if torch.compiler.is_compiling() else get_ident()


def _norm_after(encoder: nn.Module, layer: nn.Module) -> nn.Module | None:
    """Returns the norm that an encoder applies to the output of its last layer, if it has one."""
    children = list(encoder.children())
    place = next(index for index, child in enumerate(children) if any(layer is part for part in child.modules()))
    return next((child for child in children[place + 1 :] if "norm" in type(child).__name__.lower()), None)


def new_head(config: MTSBertConfig, task: dict) -> nn.Module:
    """Builds the head of a task. Its weights are not initialised yet."""
    return CosineHead() if task["type"] in COSINE_TYPES else ClassificationHead(config, task)


def scale_features(config: MTSBertConfig, settings: dict) -> None:
    """
    Sets the `feature_scale` of a new pair classification. Embeddings of length 1 have numbers so small that its head
    would learn little; times the root of their size, they are about 1. What has no `feature_scale` is an older head.
    """
    if settings["type"] == PAIR_CLASSIFICATION and config.normalize:
        settings.setdefault("feature_scale", round(config.embedding_size**0.5, 6))


class TaskEditing:
    """
    Methods of [`MTSBertModel`] that add, drop and rename its tasks. `save_pretrained` saves the result. A method that
    raises an error leaves the model unchanged. Build the optimizer afterwards: it keeps the parameters it is given.
    """

    def add_task(self, name: str, settings: str | dict) -> None:
        """
        Adds a task with a freshly initialised head, which still has to be trained.

        Args:
            name (`str`): Name of the new task, a lower-case identifier.
            settings (`dict` or `str`):
                Settings of the task, as in [`MTSBertConfig`], or just its type. The labels of a token task may be
                given as entity types: `["ORG"]` stands for `["O", "B-ORG", "I-ORG"]`.

        Raises:
            `ValueError`: If the name is taken, or a head cannot be built from the settings.
        """
        self._check_name(name, exists=False)
        settings = {"type": settings} if isinstance(settings, str) else deepcopy(settings)
        if isinstance(settings, dict) and settings.get("type") == TOKEN_CLASSIFICATION:
            labels = settings.get("labels")
            if isinstance(labels, list | tuple) and labels and OUTSIDE not in labels:
                settings["labels"] = bio_labels(labels)
        tasks = {**self.config.tasks, name: settings}
        check_tasks(tasks)
        scale_features(self.config, settings)
        head = new_head(self.config, settings).apply(self._init_weights)
        self.heads[name] = head.to(self.device, self.dtype).train(self.training)
        self.config.tasks = tasks

    def drop_task(self, name: str) -> None:
        """
        Removes a task and its head.

        Raises:
            `ValueError`: If the model has no such task, or no other task.
        """
        self._check_name(name, exists=True)
        if len(self.config.tasks) == 1:
            raise ValueError(f"{name!r} is the only task of this model, and a model needs at least one.")
        del self.heads[name]
        self.config.tasks = {task: settings for task, settings in self.config.tasks.items() if task != name}

    def rename_task(self, old: str, new: str) -> None:
        """
        Renames a task. The order of the tasks and the weights of the head stay the same.

        Raises:
            `ValueError`: If the model has no such task, or the new name is taken or not allowed.
        """
        self._check_name(old, exists=True)
        self._check_name(new, exists=False)
        tasks = {new if task == old else task: settings for task, settings in self.config.tasks.items()}
        check_tasks(tasks)
        heads = list(self.heads.values())
        self.heads.clear()
        self.heads.update(zip(tasks, heads, strict=True))
        self.config.tasks = tasks

    def rename_labels(self, task: str, names: dict[str, str]) -> None:
        """
        Renames labels of a task. The order of the labels and the weights of the head stay the same.

        Args:
            task (`str`): Name of the task.
            names (`dict[str, str]`):
                Current label → new label. Other labels keep their names. For a token task, give entity types:
                `{"GPE": "PLACE"}` renames both `B-GPE` and `I-GPE`.

        Raises:
            `ValueError`: If the model has no such task or label, or two labels would have the same name.
        """
        self._check_name(task, exists=True)
        settings = self.config.tasks[task]
        is_token_task = settings["type"] == TOKEN_CLASSIFICATION
        labels = settings.get("labels")
        if labels is None:
            raise ValueError(f"Task {task!r} is a {settings['type']} task, which has no labels.")
        present = entity_types(labels) if is_token_task else list(labels)
        if unknown := [name for name in names if name not in present]:
            kind = "entity types" if is_token_task else "labels"
            raise ValueError(f"Task {task!r} has no {kind} {unknown}; it has {present}.")
        if wrong := [name for name in names.values() if not isinstance(name, str) or not name]:
            raise ValueError(f"Task {task!r}: the new names {wrong} are not non-empty strings.")
        renamed = [names.get(name, name) for name in present]
        if len(set(renamed)) < len(renamed):
            raise ValueError(f"Task {task!r}: two labels would have the same name in {renamed}.")
        if is_token_task:  # the tags may be in any order behind the 'O'
            renamed = [tag if tag == OUTSIDE else f"{tag[:2]}{names.get(tag[2:], tag[2:])}" for tag in labels]
        changed = {**settings, "labels": renamed}
        if "thresholds" in settings:
            changed["thresholds"] = {names.get(name, name): cut for name, cut in settings["thresholds"].items()}
        self.config.tasks = {**self.config.tasks, task: changed}

    def set_embedding_size(self, size: int) -> None:
        """
        Cuts the sentence embedding to its first numbers. Pair classifications forget the others and their calibration.

        Args:
            size (`int`): The new size, at most that of now.

        Raises:
            `ValueError`: If the size is not between 1 and that of now.
        """
        before = self.config.embedding_size
        if not isinstance(size, int) or not 1 <= size <= before:
            raise ValueError(f"The embedding has {before} numbers, and can be cut to 1 to {before}, not to {size!r}.")
        for task in self.config.tasks_of_type(PAIR_CLASSIFICATION):  # which read u, v and |u - v|
            first = self.heads[task].hidden or self.heads[task].classifier
            kept = first.weight.detach().unflatten(1, (3, before))[..., :size].flatten(1)
            first.weight, first.in_features = nn.Parameter(kept.clone(), first.weight.requires_grad), 3 * size
            self.config.forget([task] if size < before else [])
        self.config.embedding_size = size

    def _check_name(self, name: str, *, exists: bool) -> None:
        if getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError("An adapter has the tasks of its checkpoint. Merge it first (`mtsbert.merge_adapters`).")
        if exists and name not in self.config.tasks:
            raise ValueError(f"The model has no task {name!r}; it has {list(self.config.tasks)}.")
        if not exists and name in self.config.tasks:
            raise ValueError(f"The model already has a task {name!r}; drop that one, or choose another name.")
