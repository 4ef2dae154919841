"""
Linear layers with adapters that are computed at once, in training. peft leaves the product of the factors and its
gradients to torch one by one, which on a CPU takes about as long as not training the weights saves.

Letters: `N` tokens, `I` inputs, `O` outputs, `R` rank.
"""

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional as F


class Sum(torch.autograd.Function):
    """
    `x W' + b + s (x A') B'` with frozen `W` `(O, I)` and `b` `(O)`: the small product is added in place, and so is its
    part of the gradient of `x`. For `x` `(..., I)`, `A` `(R, I)` and `B` `(O, R)`.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling: float):
        inputs = x.reshape(-1, x.shape[-1])  # (N, I)
        outputs = F.linear(inputs, weight, bias)  # (N, O)
        low = inputs @ down.T  # (N, R)
        outputs.addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(inputs, low, weight, down, up)
        ctx.scaling = scaling
        return outputs.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        inputs, low, weight, down, up = ctx.saved_tensors
        of_outputs = grad.reshape(-1, grad.shape[-1])
        of_low = (of_outputs @ up).mul_(ctx.scaling)
        of_up = (low.T @ of_outputs).mul_(ctx.scaling).T  # its transpose takes up to ten times as long
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = (of_outputs @ weight).addmm_(of_low, down).view(*grad.shape[:-1], -1)
        return of_inputs, None, None, of_low.T @ inputs, of_up, None


class AtOnce(Linear):
    """peft's linear layer, computed by [`Sum`] while one adapter is trained. Otherwise it is peft's own."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        base, adapters = self.base_layer, self.active_adapters
        is_other = args or kwargs or self.disable_adapters or self.merged or len(adapters) != 1
        if is_other or not torch.is_grad_enabled() or any(weight.requires_grad for weight in base.parameters()):
            return super().forward(x, *args, **kwargs)
        tensors = [x, base.weight, base.bias, *(of[adapters[0]].weight for of in (self.lora_A, self.lora_B))]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
        if len({tensor.dtype for tensor in tensors if tensor is not None}) > 1:  # which peft casts
            return super().forward(x, *args, **kwargs)
        return Sum.apply(*tensors, self.scaling[adapters[0]])


def compute_at_once(module: nn.Module) -> None:
    """Has the linear layers that peft has put adapters without dropout into compute them at once."""
    for layer in module.modules():
        if type(layer) is Linear and isinstance(layer.base_layer, nn.Linear):
            if all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values()):
                layer.__class__ = AtOnce
