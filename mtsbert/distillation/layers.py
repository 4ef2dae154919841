"""Makes a smaller model of some layers of another one, as the start of a student."""

from copy import deepcopy

import torch
from torch import nn

from modeling_mtsbert import MTSBertModel
from mtsbert.network.parts import copied_layers, encoder_layers


def kept_layers(num_layers: int, num_kept: int) -> list[int]:
    """Returns the indices of evenly spaced layers, the last one included: 1, 3 and 5 for 3 of 6."""
    return [-(-(place + 1) * num_layers // num_kept) - 1 for place in range(num_kept)]


@torch.no_grad()
def keep_layers(model: MTSBertModel, num_layers: int) -> MTSBertModel:
    """
    Builds a model of some of another model's layers, evenly spaced and with the last one. Embeddings, heads and tasks
    are copied. Where the tasks have copies of layers (`num_task_layers`), those of the kept layers are kept too.

    Args:
        model ([`MTSBertModel`]): The larger model. It stays as it is.
        num_layers (`int`): How many layers the encoder of the smaller one has, at least 1.

    Returns:
        A new model on the same device, in evaluation mode.

    Raises:
        `ValueError`: If the encoder has fewer layers, or its layers cannot take each other's place.

    Example:

        >>> teacher = MTSBertModel.from_pretrained("runs/ag_news_minilm")
        >>> student = keep_layers(teacher, 3)
        >>> student.config.num_hidden_layers
        3
    """
    layers = encoder_layers(model)
    if type(num_layers) is not int or not 1 <= num_layers <= len(layers):
        raise ValueError(
            f"`num_layers` is {num_layers!r}; the encoder has {len(layers)} layers, so 1 to {len(layers)}."
        )
    kept, copied = kept_layers(len(layers), num_layers), copied_layers(model)
    # Not of the lowest layer, which the embedding and the tasks share.
    kept_copies = [index - copied.start for index in kept[1:] if index in copied]
    config = deepcopy(model.config)
    config.num_task_layers = len(kept_copies)
    _set_num_layers(config.encoder_config, kept, len(layers))
    student = MTSBertModel(config).to(model.device, model.dtype)
    state = _renumbered(model.state_dict(), _name_of(model, layers), kept)
    if model.task_layers is not None:
        state = _renumbered(state, _name_of(model, model.task_layers.layers), kept_copies)
    if student.task_layers is None:
        state = {name: weight for name, weight in state.items() if not name.startswith("task_layers.")}
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"The layers of the encoder {type(model.encoder).__name__} are not all alike: `num_layers` cannot be used "
            f"with it. ({error})"
        ) from None
    student.config.name_or_path = model.config.name_or_path  # where its tokenizer is
    return student.eval()


def _set_num_layers(encoder_config, kept: list[int], num_layers: int) -> None:
    """Sets the number of layers, and leaves those that are kept in lists with an entry for every layer."""
    of_layers = encoder_config.get_text_config()
    for name, value in list(vars(of_layers).items()):
        if isinstance(value, list) and len(value) == num_layers and "layer" in name:
            setattr(of_layers, name, [value[index] for index in kept])
    of_layers.num_hidden_layers = len(kept)


def _name_of(model: MTSBertModel, module: nn.Module) -> str:
    return next(name for name, part in model.named_modules() if part is module)


def _renumbered(state: dict[str, torch.Tensor], prefix: str, kept: list[int]) -> dict[str, torch.Tensor]:
    """Returns the weights of a model with only some of the layers under a prefix, which are counted anew."""
    found = {}
    for name, weight in state.items():
        if not name.startswith(f"{prefix}."):
            found[name] = weight
            continue
        index, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        if int(index) in kept:
            found[f"{prefix}.{kept.index(int(index))}.{rest}"] = weight
    return found
