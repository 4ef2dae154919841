"""One encoder, several heads: sentence embedding, text labels and named entities in a single pass.

Letters used below: `B` texts, `T` word pieces, `H` hidden size, `C` classes, `K` tags.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput, SequenceClassifierOutput, TokenClassifierOutput


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .answers_mtsbert import calibrated
    from .configuration_mtsbert import (
        COSINE_TYPES,
        PAIR_TYPES,
        SEQUENCE_CLASSIFICATION,
        SEQUENCE_REGRESSION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_sources,
        check_weights,
        with_saved_embedding,
    )

    # transformers 5.8 and 5.9 copy the files that this one names, and not those that they name in turn.
    from .entities_mtsbert import IGNORE_INDEX  # noqa: F401
    from .heads_mtsbert import TaskEditing, TaskLayers, TextStates, new_head, pool, scale_features
    from .losses_mtsbert import TaskLosses, item_losses, num_items
    from .pipeline_mtsbert import HANDLER, MTSBertPipeline, save_sentence_transformers_files
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from answers_mtsbert import calibrated
    from configuration_mtsbert import (
        COSINE_TYPES,
        PAIR_TYPES,
        SEQUENCE_CLASSIFICATION,
        SEQUENCE_REGRESSION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_sources,
        check_weights,
        with_saved_embedding,
    )
    from heads_mtsbert import TaskEditing, TaskLayers, TextStates, new_head, pool, scale_features
    from losses_mtsbert import TaskLosses, item_losses, num_items
    from pipeline_mtsbert import HANDLER, MTSBertPipeline, save_sentence_transformers_files


@dataclass
class MTSBertOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            Sum of `losses`.
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, H)`): Token states of the encoder.
        pooler_output (`torch.FloatTensor` of shape `(B, E)`):
            Sentence embedding of `config.embedding_size` numbers, of length 1 if `config.normalize`.
        logits (`dict[str, torch.FloatTensor]`):
            By task: `(B, C)` for a sequence or pair classification, `(B, T, K)` for a token classification, the
            numbers `(B, 1)` of a regression, and the cosines `(B,)` for a similarity or a ranking.
        losses (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` is given):
            By task: the mean loss over the labelled items, or 0 if there are none.
        pair_pooler_output (`torch.FloatTensor` of shape `(B, E)` or `(2 B, E)`, *optional*):
            Embeddings of the second texts of pairs, and then of the hard negatives if there are any.
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): As in the outputs of other encoders.
    """

    loss: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    logits: dict[str, torch.FloatTensor] | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    pair_pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class MTSBertModel(TaskEditing, TaskLosses, PreTrainedModel):
    """An encoder with pooling and one head for each task of the config.

    `from_pretrained` loads a checkpoint; [`MTSBertModel.from_encoder`] starts a new model from a pretrained encoder:

        tasks = {"topic": {"type": "sequence_classification", "labels": ["World", "Sports"]}}
        model = MTSBertModel.from_encoder("sentence-transformers/all-MiniLM-L6-v2", tasks=tasks)
    """

    config_class = MTSBertConfig
    config: MTSBertConfig
    base_model_prefix = "mtsbert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # If the encoder does not support one of these, `AutoModel.from_config` raises when it is built.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    accepts_loss_kwargs = True  # `forward` takes `num_items_in_batch`

    def __init__(self, config: MTSBertConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder_config, trust_remote_code=False)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = nn.Identity()  # ours replaces it; unused weights would break DDP and freezing
        self.task_layers = TaskLayers(self.encoder, config) if config.num_task_layers else None
        self.heads = nn.ModuleDict({name: new_head(config, task) for name, task in config.tasks.items()})
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Called for modules that no checkpoint fills; the encoder brings its own initialisation.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors: bool | None = None, **kwargs):
        """Like `PreTrainedModel.from_pretrained`, but loads only safetensors."""
        if use_safetensors is False:
            raise ValueError("mtsbert reads weights from safetensors alone; `use_safetensors` cannot be False.")
        check_weights(pretrained_model_name_or_path, **kwargs)
        opened = super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)
        (opened[0] if isinstance(opened, tuple) else opened).revision = kwargs.get("revision")  # of its tokenizer too
        return opened

    @classmethod
    def from_encoder(
        cls,
        encoder_name_or_path: str,
        *,
        tasks: dict[str, dict] | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        **config,
    ) -> "MTSBertModel":
        """
        Builds a new model from a pretrained encoder, with freshly initialised heads.

        Args:
            encoder_name_or_path (`str`): Folder or Hub id of an encoder that `AutoModel` can load.
            tasks (`dict[str, dict]`, *optional*): Tasks of the model; see [`MTSBertConfig`].
            encoder_kwargs (`dict[str, Any]`, *optional*):
                Passed on to `AutoConfig.from_pretrained` and `AutoModel.from_pretrained` (`revision`, `cache_dir` …).
            config: Other fields of [`MTSBertConfig`] (`pooling` …), and `encoder_config` for a config to use instead.
                Those that sentence-transformers has saved with the encoder are taken from there unless they are given.

        Raises:
            `ValueError`: If the encoder has code of its own, which every checkpoint would have to run, or its weights
                are not safetensors.
        """
        encoder_kwargs = {"trust_remote_code": False, **(encoder_kwargs or {})}
        if encoder_kwargs["trust_remote_code"]:
            raise ValueError("The encoder is a class of transformers itself; `trust_remote_code` is of no use here.")
        check_sources(PretrainedConfig.get_config_dict(encoder_name_or_path, **encoder_kwargs)[0])
        check_weights(encoder_name_or_path, **encoder_kwargs)
        own_config = AutoConfig.from_pretrained(encoder_name_or_path, **encoder_kwargs)
        encoder_config = config.pop("encoder_config", own_config)
        encoder_config.dtype = None  # weights that are stored in half precision are trained in float32
        config = with_saved_embedding(config, encoder_name_or_path, **encoder_kwargs)
        model = cls(cls.config_class(encoder_config=encoder_config, tasks=tasks, **config))
        for settings in model.config.tasks.values():
            scale_features(model.config, settings)
        encoder = AutoModel.from_pretrained(
            encoder_name_or_path, config=encoder_config, use_safetensors=True, dtype=model.dtype, **encoder_kwargs
        )
        model.encoder.load_state_dict({k: w for k, w in encoder.state_dict().items() if not k.startswith("pooler.")})
        if model.task_layers is not None:
            model.task_layers.copy_from(model.encoder)
        model.config.encoder_config._name_or_path = ""  # a path of this machine means nothing in a checkpoint
        model.encoder_name_or_path, model.revision = encoder_name_or_path, encoder_kwargs.get("revision")
        return model

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **kwargs):
        """Like `PreTrainedModel.save_pretrained`, and also writes files for `SentenceTransformer` and Endpoints."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            save_sentence_transformers_files(self.config, Path(save_directory))
            (Path(save_directory) / "handler.py").write_text(HANDLER, encoding="utf-8")

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.encoder.set_input_embeddings(value)

    def encode(
        self, input_ids=None, attention_mask=None, *, inputs_embeds=None, for_heads: bool = True, **kwargs
    ) -> tuple[Any, torch.Tensor, TextStates]:
        """
        Runs the encoder.

        Returns:
            Its output, the pooled text states `(B, H)` of the sentence embedding, which are not normalised, and the
            states that the heads read. Without task layers, or without `for_heads`, these are the same.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`.")
        if attention_mask is None:
            given = input_ids if input_ids is not None else inputs_embeds
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, **kwargs}
        has_own_layers = for_heads and self.task_layers is not None
        if has_own_layers:
            self.task_layers.record()
        encoded = self.encoder(
            attention_mask=attention_mask,
            return_dict=True,
            **{name: value for name, value in given.items() if value is not None},
        )
        text_states = pool(encoded.last_hidden_state, attention_mask, self.config.pooling)
        if not has_own_layers:
            return encoded, text_states, TextStates(encoded.last_hidden_state, text_states)
        of_tokens = self.task_layers()
        return encoded, text_states, TextStates(of_tokens, pool(of_tokens, attention_mask, self.config.pooling))

    def encode_pairs(
        self,
        texts: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pair_texts: torch.Tensor,
        pair_attention_mask: torch.Tensor | None,
        *,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[Any, torch.Tensor, torch.Tensor, TextStates]:
        """
        Encodes the first and second texts of pairs in one pass. Second texts that are all padding are left out of it.

        Args:
            texts, pair_texts (`torch.Tensor`):
                Token ids `(B, T)` and `(B, T')` or `(2 B, T')`, or embeddings with a third dimension.
            attention_mask, pair_attention_mask (`torch.Tensor`, *optional*): 1 for text, 0 for padding.
            token_type_ids (`torch.Tensor` of shape `(B, T)`, *optional*): Of the first texts.
            kwargs: Passed on to the encoder.

        Returns:
            The encoder's output for the first texts, their text states `(B, H)`, the text states of the second texts
            in the order of `pair_texts`, which are 0 for a row without one, and the states that the heads read.
        """
        num_texts, length = texts.shape[:2]
        if attention_mask is None:
            attention_mask = torch.ones(texts.shape[:2], dtype=torch.long, device=texts.device)
        if pair_attention_mask is None:
            pair_attention_mask = torch.ones(pair_texts.shape[:2], dtype=torch.long, device=texts.device)
        rows = pair_attention_mask.any(dim=1).nonzero().squeeze(1)  # rows that have a second text
        longest = max(length, pair_texts.shape[1]) if len(rows) else length

        def stack(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            after_length = (0, 0) * (first.dim() - 2)  # `F.pad` starts at the last dimension; leave it unpadded
            return torch.cat([F.pad(x, (*after_length, 0, longest - x.shape[1])) for x in (first, second[rows])])

        if token_type_ids is not None:
            kwargs["token_type_ids"] = stack(token_type_ids, torch.zeros_like(pair_attention_mask))
        kwargs["inputs_embeds" if texts.is_floating_point() else "input_ids"] = stack(texts, pair_texts)
        encoded, states, of_heads = self.encode(attention_mask=stack(attention_mask, pair_attention_mask), **kwargs)
        encoded.last_hidden_state = encoded.last_hidden_state[:num_texts, :length]
        if encoded.get("hidden_states") is not None:
            encoded.hidden_states = tuple(state[:num_texts, :length] for state in encoded.hidden_states)
        if encoded.get("attentions") is not None:
            encoded.attentions = tuple(weights[:num_texts, :, :length, :length] for weights in encoded.attentions)
        second_states = states.new_zeros(len(pair_texts), states.shape[1]).index_copy(0, rows, states[num_texts:])
        of_heads = TextStates(of_heads.tokens[:num_texts, :length], of_heads.texts[:num_texts])
        return encoded, states[:num_texts], second_states, of_heads

    def embed(self, text_states: torch.Tensor) -> torch.Tensor:
        """Turns text states `(B, H)` into sentence embeddings, which have length 1 if `config.normalize`."""
        text_states = text_states[..., : self.config.embedding_size]
        if not self.config.normalize:
            return text_states
        return F.normalize(text_states.float(), dim=-1).to(text_states.dtype)

    def head_logits(self, task: str, states: TextStates) -> torch.Tensor:
        """
        The logits of a task on single texts: `(B, C)` for a sequence task, `(B, T, K)` for a token task, and the
        numbers `(B, 1)` of a regression, whose head answers in units of its `score_range`.
        """
        settings, head = self.config.tasks[task], self.heads[task]
        if settings["type"] != SEQUENCE_REGRESSION:
            return head(states.tokens if settings["type"] == TOKEN_CLASSIFICATION else states.texts)
        lowest, highest = settings.get("score_range", (0.0, 1.0))
        weight = head.classifier.weight  # which quantizers replace by whole numbers, or by a method
        kind = weight.dtype if isinstance(weight, torch.Tensor) and weight.is_floating_point() else torch.float32
        with torch.autocast(states.texts.device.type, enabled=False):  # a number has more digits than bf16
            return lowest + (highest - lowest) * head(states.texts.to(kind)).float()

    def pair_logits(self, task: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Of two embeddings: the logits `(B, C)` of a pair classification, or else the cosines `(B,)`."""
        if self.config.tasks[task]["type"] in COSINE_TYPES:
            return self.heads[task](u, v)
        scale = self.config.tasks[task].get("feature_scale", 1.0)
        return self.heads[task](torch.cat([u, v, (u - v).abs()], dim=-1) * scale)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pair_input_ids: torch.LongTensor | None = None,
        pair_attention_mask: torch.Tensor | None = None,
        pair_inputs_embeds: torch.FloatTensor | None = None,
        labels: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        tasks: Iterable[str] | None = None,
    ) -> MTSBertOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Token ids. Alternatively, `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for text, 0 for padding.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, H)`, *optional*): Embeddings instead of `input_ids`.
            pair_input_ids (`torch.LongTensor` of shape `(B, T')` or `(2 B, T')`, *optional*):
                Token ids of the second texts. Without them, pair tasks have no logits. `B` further rows are the hard
                negatives of a ranking.
            pair_attention_mask (`torch.Tensor` in the shape of `pair_input_ids`, *optional*):
                1 for text, 0 for padding. A row of zeros has no second text, or no hard negative.
            pair_inputs_embeds (`torch.FloatTensor` with a third dimension `H`, *optional*):
                Embeddings instead of `pair_input_ids`, together with `inputs_embeds`.
            labels (`dict[str, torch.Tensor]`, *optional*):
                By task: class ids `(B,)` or probabilities `(B, C)`; zeros and ones `(B, C)` for a multi-label task;
                tag ids `(B, T)` for a token task; numbers `(B,)` for a similarity or a regression; 1 for a row of a
                ranking `(B,)`. Items with -100, and numbers that are NaN, are ignored, as are tasks left out.
            num_items_in_batch (`dict[str, torch.Tensor]`, *optional*):
                By task: what the summed loss is divided by, instead of the number of labelled items in this batch. The
                Trainer passes the number of items in the whole optimizer step.
            tasks (`Iterable[str]`, *optional*):
                The tasks to compute `logits` for, by default all. Other heads do not run. Cannot be combined with
                `labels`.

        Returns:
            [`MTSBertOutput`], or with `return_dict=False` a tuple of its fields that are not None.
        """
        if tasks is not None and labels is not None:
            raise ValueError("Give either `labels` or `tasks`: the losses need the logits of every task.")
        chosen = self.config.select_tasks(tasks)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        requested = self._requested(output_attentions, output_hidden_states)
        requested["for_heads"] = any(settings["type"] not in PAIR_TYPES for settings in chosen.values())
        texts, pair_texts, second_states = input_ids, pair_input_ids, None
        if pair_inputs_embeds is not None:
            texts, pair_texts = inputs_embeds, pair_inputs_embeds
        if pair_texts is None:
            of_tokens = dict(token_type_ids=token_type_ids, position_ids=position_ids, inputs_embeds=inputs_embeds)
            encoded, text_states, of_heads = self.encode(input_ids, attention_mask, **of_tokens, **requested)
        elif (input_ids is None) == (inputs_embeds is None) or texts is None or position_ids is not None:
            raise ValueError(
                "Give both texts of a pair as word pieces, or both as embeddings, without `position_ids`."
            )
        else:
            encoded, text_states, second_states, of_heads = self.encode_pairs(
                texts, attention_mask, pair_texts, pair_attention_mask, token_type_ids=token_type_ids, **requested
            )
        u = self.embed(text_states)
        v = None if second_states is None else self.embed(second_states)
        logits = {}
        for task, settings in chosen.items():
            if settings["type"] not in PAIR_TYPES:
                logits[task] = self.head_logits(task, of_heads)
            elif v is not None:
                logits[task] = self.pair_logits(task, u, v[: len(u)])
        output = MTSBertOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=u,
            logits=logits,
            pair_pooler_output=v,
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )
        if labels is not None:
            output.losses = self.losses(output, labels, num_items_in_batch)
            for task in chosen.keys() - logits.keys():  # their pairs train these states, which are not in this batch
                output.losses[task] = output.losses[task] + text_states.float().sum() * 0.0
            output.loss = sum(output.losses.values())
        return output if return_dict else output.to_tuple()

    def as_pipeline(self, tokenizer: PreTrainedTokenizerBase | str | None = None, **kwargs) -> MTSBertPipeline:
        """Builds a [`MTSBertPipeline`] with this model. Takes the arguments of that class."""
        return MTSBertPipeline(model=self, tokenizer=tokenizer, **kwargs)

    def _requested(self, output_attentions: bool | None, output_hidden_states: bool | None) -> dict[str, bool]:
        """The optional outputs to request from the encoder. An argument of the call overrides the config."""
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        # Not as a truth value: from 5.23 on, transformers takes a list of layers.
        return {"output_attentions": attentions or False, "output_hidden_states": hidden_states or False}


class _SingleTaskView(MTSBertModel):
    """Loads every head of a checkpoint, but answers with only one of them, in transformers' own output class.

    Args:
        head (`str`, *optional*): The task to answer with. Defaults to the first one of the right type.
    """

    task_types: tuple[str, ...]

    def __init__(self, config: MTSBertConfig, head: str | None = None):
        candidates = [task for task_type in self.task_types for task in config.tasks_of_type(task_type)]
        kinds = " and ".join(self.task_types)
        if not candidates:
            types = {name: task["type"] for name, task in config.tasks.items()}
            raise ValueError(f"This checkpoint has no {kinds} task; its tasks are {types}.")
        if head is not None and head not in candidates:
            raise ValueError(f"`head` is {head!r}; the {kinds} tasks of this checkpoint are {candidates}.")
        config.take_other_labels(head or candidates[0])
        super().__init__(config)
        self.head = head or candidates[0]
        settings = config.tasks[self.head]
        kind = "multi_label" if settings.get("multi_label") else "single_label"
        config.problem_type = "regression" if settings["type"] == SEQUENCE_REGRESSION else f"{kind}_classification"
        self._name_labels()

    def _name_labels(self) -> None:
        labels = self.config.tasks[self.head].get("labels", [self.head])
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {label: index for index, label in enumerate(labels)}
        self.num_labels = len(labels)

    def save_pretrained(self, *args, **kwargs):
        labels, start = self.config.tasks[self.head].get("labels", []), 2 * (TOKEN_CLASSIFICATION in self.task_types)
        pairs = zip(labels, [name for _, name in sorted(self.config.id2label.items())], strict=False)
        if names := {old[start:]: new[start:] for old, new in pairs if old != new}:
            self.rename_labels(self.head, names)  # as they have been assigned to the config
        super().save_pretrained(*args, **kwargs)

    def drop_task(self, name: str) -> None:
        if name == self.head:
            raise ValueError(f"This model answers with the head {name!r}; open the checkpoint with another `head`.")
        super().drop_task(name)

    def rename_task(self, old: str, new: str) -> None:
        super().rename_task(old, new)
        self.head = new if self.head == old else self.head

    def rename_labels(self, task: str, names: dict[str, str]) -> None:
        super().rename_labels(task, names)
        self._name_labels()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ):
        """Like [`MTSBertModel.forward`], but `labels` and `num_items_in_batch` are those of the one task."""
        return_dict = self.config.return_dict if return_dict is None else return_dict
        requested = self._requested(output_attentions, output_hidden_states)
        of_tokens = {"token_type_ids": token_type_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        encoded, _, of_heads = self.encode(input_ids, attention_mask, **of_tokens, **requested)
        settings, loss, logits = self.config.tasks[self.head], None, self.head_logits(self.head, of_heads)
        if labels is not None:
            width = labels.shape[1] if settings.get("soft_labels") and labels.dim() == 2 else 1  # a Trainer counts all
            count = num_items(labels, settings) if num_items_in_batch is None else num_items_in_batch / width
            loss = item_losses(settings, logits, labels).sum() / torch.as_tensor(count).clamp(min=1)
        output = self.output_class(
            loss=loss,
            logits=logits if self.training else calibrated(settings, logits),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )
        return output if return_dict else output.to_tuple()


class MTSBertForSequenceClassification(_SingleTaskView):
    """An mtsbert checkpoint as a text classifier, or for a regression. The `logits` are `(B, C)` or `(B, 1)`."""

    task_types = (SEQUENCE_CLASSIFICATION, SEQUENCE_REGRESSION)
    output_class = SequenceClassifierOutput


class MTSBertForTokenClassification(_SingleTaskView):
    """An mtsbert checkpoint as a token classifier. The `logits` have the shape `(B, T, K)`."""

    task_types = (TOKEN_CLASSIFICATION,)
    output_class = TokenClassifierOutput


MTSBertModel.register_for_auto_class("AutoModel")
MTSBertForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MTSBertForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
