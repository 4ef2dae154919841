"""What is left as it is during training, decided once, before the optimizer exists."""

from torch import nn

from modeling_mtsbert import MTSBertModel
from mtl.arguments import MTLTrainingArguments


def frozen_modules(model: MTSBertModel, args: MTLTrainingArguments) -> dict[str, nn.Module]:
    """The modules that the flags name, by their name. Raises `ValueError` for a flag that fits nothing."""
    modules: dict[str, nn.Module] = {}
    if args.freeze_encoder:
        modules["encoder"] = model.encoder
    if args.freeze_embeddings:
        modules["encoder.embeddings"] = encoder_embeddings(model)
    if args.num_frozen_layers:
        layers = encoder_layers(model)
        if args.num_frozen_layers > len(layers):
            raise ValueError(f"`num_frozen_layers` is {args.num_frozen_layers}; the encoder has {len(layers)} layers.")
        modules.update({f"encoder layer {index}": layers[index] for index in range(args.num_frozen_layers)})
    for task in args.freeze_heads or []:
        if task not in model.heads:
            raise ValueError(f"`freeze_heads` names {task!r}; the heads are {list(model.heads)}.")
        modules[f"heads.{task}"] = model.heads[task]
    return modules


def freeze(modules: dict[str, nn.Module]) -> None:
    for module in modules.values():
        module.requires_grad_(False)


def encoder_layers(model: MTSBertModel) -> nn.ModuleList:
    """The encoder's layers from the lowest up. Raises `ValueError` where the encoder does not expose them."""
    num_layers = model.config.get_text_config().num_hidden_layers
    for module in model.encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(
        f"The encoder {type(model.encoder).__name__} does not expose a list of its {num_layers} layers; "
        "`num_frozen_layers` cannot be used with it."
    )


def encoder_embeddings(model: MTSBertModel) -> nn.Module:
    """Everything below the first layer: the encoder's `embeddings`, or its word embeddings alone."""
    return getattr(model.encoder, "embeddings", None) or model.encoder.get_input_embeddings()
