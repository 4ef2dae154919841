"""
Adapters saved alone, in peft's format, for the checkpoint that they were trained on: its weights stay as they are, and
several adapters share them.

A folder has the factors and the heads (`adapter_model.safetensors`), and what peft needs to put them in
(`adapter_config.json`). It opens like a checkpoint wherever peft is installed.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME

from configuration_mtsbert import save_sentence_transformers_files
from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import ADAPTER, adapted_modules
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.starting_point import load_checkpoint_config, name_of
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline


def check_saved_alone(model: MTSBertModel, args: MTLTrainingArguments) -> None:
    """
    Checks before training that an adapter can be saved alone, and that the output folder has no other kind of model.

    Raises:
        `ValueError`: if the model is not an mtsbert checkpoint as it was saved, or the folder has a whole checkpoint
            (or an adapter, where this run saves a whole one).
    """
    folder = Path(args.output_dir)
    kind, other = ("adapter", ADAPTER_CONFIG_NAME) if args.lora_merge else ("whole checkpoint", SAFE_WEIGHTS_NAME)
    if (folder / other).exists():
        raise ValueError(
            f"{folder} has the {kind} of another run ({other}), beside which what this run saves cannot be opened; "
            "name another output folder."
        )
    if args.lora_merge:
        return
    name, tasks = model.config.name_or_path, model.config.tasks
    if not name:
        raise ValueError(
            "`lora_merge: false` keeps the adapter for the mtsbert checkpoint that the run starts from, and this one "
            f"starts from {name_of(model) or 'weights that are in no folder'!r}. Train such a checkpoint first (its "
            "heads suffice: --freeze_encoder), and start from it with --model_name_or_path."
        )
    base = MTSBertModel.from_pretrained(name, config=load_checkpoint_config(name), dtype=torch.float32)
    of_base = base.config.tasks
    if differing := [task for task in {**tasks, **of_base} if _kind(tasks, task) != _kind(of_base, task)]:
        raise ValueError(
            f"`lora_merge: false` keeps heads for those of {name}, and the tasks {differing} of this run differ from "
            "its tasks. Use the same tasks, labels and head sizes, or save the whole model (leave it out)."
        )
    weights = model.state_dict()
    if not hasattr(model, "_lora_settings") and any(
        not torch.equal(weight, weights[key].float().cpu())
        for key, weight in base.state_dict().items()
        if not key.startswith("heads.")
    ):
        raise ValueError(
            f"`lora_merge: false` keeps the adapter for {name}, and the model has other weights than that checkpoint "
            "by now. Save it to a folder, and load it from there."
        )


def _kind(tasks: dict[str, dict], task: str) -> tuple:
    """What the weights of a head depend on; empty if there is no such task."""
    return tuple(tasks[task].get(name) for name in ("type", "labels", "hidden_size")) if task in tasks else ()


def save_alone(model: MTSBertModel, folder: Path) -> None:
    """Writes the adapters and heads of a model to a folder, in peft's format."""
    peft = import_extra("peft", extra="lora")
    modules = dict(adapted_modules(model))
    heads = [task for task, head in model.heads.items() if list(head.parameters())]
    weights = {
        f"heads.{task}.{name}": weight for task in heads for name, weight in model.heads[task].named_parameters()
    }
    for name, module in modules.items():
        weights[f"{name}.lora_A.weight"] = module.lora_A[ADAPTER].weight
        weights[f"{name}.lora_B.weight"] = module.lora_B[ADAPTER].weight
    settings = {name: model._lora_settings[name] for name in ("lora_alpha", "lora_dropout")}
    config = peft.LoraConfig(
        r=model._lora_settings["lora_r"],
        target_modules=sorted(modules),
        modules_to_save=[f"heads.{task}" for task in heads],
        base_model_name_or_path=model.config.name_or_path,
        inference_mode=True,
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_sentence_transformers_files(model.config, folder)
    tensors = {f"base_model.model.{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def use_adapter(pipeline: MTSBertPipeline, name_or_path: str | Path | None) -> None:
    """
    Has a pipeline answer with an adapter that was saved alone, in place of the one before. Adapters stay loaded.

    Args:
        pipeline ([`MTSBertPipeline`]): The pipeline of the checkpoint that the adapter was trained on, or of another
            adapter on it.
        name_or_path (`str` or `Path`, *optional*): The folder or Hub id of the adapter; None for the checkpoint as it
            was without any.

    Raises:
        `ValueError`: if peft is not installed, or it is no adapter, or one for other tasks.

    Example:

        >>> ask = load_pipeline("runs/base")
        >>> use_adapter(ask, "runs/sports")
        >>> ask("Oslo beat Lima in the final")["topic"]["label"]
        'Sports'
        >>> use_adapter(ask, None)
    """
    model, peft = pipeline.model, import_extra("peft", extra="lora")
    if not isinstance(model, torch.nn.Module):
        raise ValueError("An export has its weights merged; adapters are for the pipeline of a checkpoint.")
    loaded = model.__dict__.setdefault("_loaded_adapters", {})  # folder or Hub id → peft's name for it
    if name_or_path is not None and (key := str(name_or_path)) not in loaded:
        try:
            config = peft.PeftConfig.from_pretrained(key)
        except (ValueError, OSError) as error:
            raise ValueError(f"{key!r} is no adapter: it has no {ADAPTER_CONFIG_NAME}. ({error})") from error
        heads = {f"heads.{task}" for task, head in model.heads.items() if list(head.parameters())}
        if {*(config.modules_to_save or ())} != heads:
            raise ValueError(
                f"The adapter {key!r} has {sorted(config.modules_to_save or ())}, and the model {sorted(heads)}."
            )
        loaded[key] = f"adapter_{len(loaded)}"
        model.load_adapter(key, loaded[key])
    if name_or_path is not None:
        model.set_adapter(loaded[str(name_or_path)])
    for module in model.modules():  # transformers' `enable_adapters` forgets the heads
        if isinstance(module, (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.ModulesToSaveWrapper)):
            module.enable_adapters(name_or_path is not None)
