"""
Adapters saved alone, in peft's format, for the checkpoint that they were trained on: its weights stay as they are, and
several adapters share them.

A folder has the factors and the heads (`adapter_model.safetensors`), what peft needs to put them in
(`adapter_config.json`), and what they belong to (`adapter_base.json`). It opens like a checkpoint where peft is
installed.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME

from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import ADAPTER, adapted_modules
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.labels import OF_THE_LOSS, list_or_value
from mtsbert.network.adapters import (
    BASE_FILE,
    IN_FILE,
    fingerprint_of,
    head_weights,
    heads_of,
    put_adapter,
    settings_of_heads,
    settings_of_model,
    shared_weights,
    switch_adapters,
)
from mtsbert.network.starting_point import load_checkpoint_config, name_of
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline, save_sentence_transformers_files


def check_saved_alone(model: MTSBertModel, args: MTLTrainingArguments) -> None:
    """
    Checks before training that an adapter can be saved alone, and that the output folder has no other kind of model.

    Raises:
        `ValueError`: if the model is not an mtsbert checkpoint as it was saved, or the folder has a whole checkpoint
            (or an adapter, where this run saves a whole one), or it is to be pushed and its checkpoint is in a folder.
    """
    check_folder(Path(args.output_dir), saves_adapter=not args.lora_merge)
    if args.lora_merge:
        return
    check_base(model)
    if args.push_to_hub:
        check_can_be_pushed(model)


def check_folder(folder: Path, *, saves_adapter: bool) -> None:
    """Raises `ValueError` if a folder has an adapter and is to have a whole checkpoint, or the other way round."""
    kind, other = ("whole checkpoint", SAFE_WEIGHTS_NAME) if saves_adapter else ("adapter", ADAPTER_CONFIG_NAME)
    if (folder / other).exists():
        raise ValueError(
            f"{folder} has the {kind} of another run ({other}), beside which what this run saves cannot be opened; "
            "name another folder."
        )


def check_can_be_pushed(model: MTSBertModel) -> None:
    if Path(model.config.name_or_path).is_dir():
        raise ValueError(
            f"The adapter is for the folder {model.config.name_or_path}, which nobody has who opens it from the Hub. "
            "Push that checkpoint, and start from its Hub id."
        )


def check_base(model: MTSBertModel) -> None:
    """
    Raises `ValueError` if a model, with adapters or not yet, is not the checkpoint that it was loaded from, adapters
    and heads aside: what is saved alone would be opened on something else.
    """
    name = model.config.name_or_path
    if not name:
        raise ValueError(
            "`lora_merge: false` keeps the adapter for the mtsbert checkpoint that the run starts from, and this one "
            f"starts from {name_of(model) or 'weights that are in no folder (as an adapter that was merged)'!r}. "
            "Train such a checkpoint first (its heads suffice: --freeze_encoder), or save it, and start from it."
        )
    base = MTSBertModel.from_pretrained(name, config=load_checkpoint_config(name), dtype=torch.float32)
    here, there = shared_weights(model), shared_weights(base)
    if here.keys() != there.keys() or not all(
        torch.equal(weight.float(), here[key].detach().float().cpu()) for key, weight in there.items()
    ):
        raise ValueError(
            f"`lora_merge: false` keeps the adapter for {name}, and the model has other weights or layers than that "
            "checkpoint by now. Save it to a folder, and load it from there."
        )
    here, there = _kept_settings(model), _kept_settings(base)
    if differing := sorted(key for key in {**here, **there} if here.get(key) != there.get(key)):
        raise ValueError(
            f"`lora_merge: false` keeps the adapter for {name}, whose settings it has. In this run {differing} are "
            f"others: {here.get(differing[0])}, not {there.get(differing[0])}. Leave them as they are, or save the "
            "whole model."
        )


def _kept_settings(model: MTSBertModel) -> dict:
    """The settings by which a model answers, by name; for tasks as `topic.min_score`."""
    found = settings_of_model(model.config)
    for task, settings in settings_of_heads(model.config).items():
        for key, value in {**model.config.tasks[task], **settings}.items():
            if key not in OF_THE_LOSS:
                found[f"{task}.{key}"] = list_or_value(value)
    return found


def save_alone(model: MTSBertModel, folder: Path) -> None:
    """
    Writes the adapters and heads of a model to a folder, in peft's format.

    Raises:
        `ValueError`: if the model is not the checkpoint that it says, or the folder has a whole checkpoint.
    """
    check_folder(folder, saves_adapter=True)
    check_base(model)
    peft = import_extra("peft", extra="lora")
    modules, weights = dict(adapted_modules(model)), head_weights(model)
    for name, module in modules.items():
        weights[f"{name}.lora_A.weight"] = module.lora_A[ADAPTER].weight
        weights[f"{name}.lora_B.weight"] = module.lora_B[ADAPTER].weight
    settings = {name: model._lora_settings[name] for name in ("lora_alpha", "lora_dropout")}
    base = model.config.name_or_path
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    config = peft.LoraConfig(
        r=model._lora_settings["lora_r"],
        target_modules=sorted(modules),
        modules_to_save=heads_of(model),
        base_model_name_or_path=base,
        inference_mode=True,
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_sentence_transformers_files(model.config, folder)
    belongs = {"name": Path(base).name if Path(base).is_dir() else base, **fingerprint_of(model)}
    (folder / BASE_FILE).write_text(json.dumps(belongs, indent=2) + "\n", encoding="utf-8")
    tensors = {IN_FILE + name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def use_adapter(pipeline: MTSBertPipeline, name_or_path: str | Path | None) -> None:
    """
    Has a pipeline answer with an adapter that was saved alone, in place of the one before. Adapters stay in memory.
    No other thread may ask the pipeline meanwhile.

    Args:
        pipeline ([`MTSBertPipeline`]): The pipeline of the checkpoint that the adapter was trained on, or of another
            adapter on it.
        name_or_path (`str` or `Path`, *optional*): The folder or Hub id of the adapter; None for the checkpoint as it
            was without any.

    Raises:
        `ValueError`: if peft is not installed, or it is no adapter, or one for another model. The pipeline answers as
            before then.

    Example:

        >>> ask = load_pipeline("runs/base")
        >>> use_adapter(ask, "runs/sports")
        >>> ask("Oslo beat Lima in the final")["topic"]["label"]
        'Sports'
        >>> use_adapter(ask, None)
    """
    if not isinstance(pipeline.model, nn.Module):
        raise ValueError("An export has its weights merged; adapters are for the pipeline of a checkpoint.")
    if name_or_path is None:
        switch_adapters(pipeline.model, on=False)
    else:
        put_adapter(pipeline.model, name_or_path)
