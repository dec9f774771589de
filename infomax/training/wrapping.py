"""Model and optimiser as Accelerate wraps them: a copy a process (DistributedDataParallel), or a shard (FSDP2).

What Accelerate leaves to its caller is here: parameters without a gradient, parameters that cannot be sharded, and an
optimiser's state that was restored before its parameters became shards.
"""

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from infomax.distributed import is_sharded
from infomax.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from infomax.models import Model


def is_sharding(accelerator: "Accelerator") -> bool:
    """Whether models are trained in shards; without make_accelerator() that may be any form of FSDP."""
    return bool(getattr(accelerator, "is_fsdp2", False))


def refuse_sharding(model: "Model", accelerator: "Accelerator") -> None:
    """Raises UserError for a model that cannot be trained in shards, where it would be."""
    if not is_sharding(accelerator):
        return
    plugin: Any = accelerator.state.fsdp_plugin
    dynamo: Any = accelerator.state.dynamo_plugin
    if dynamo.backend.value != "NO":
        raise UserError("--dynamo_backend under FSDP2 was never tried: leave out one of the two.")
    least = math.inf if plugin.min_num_params is None else plugin.min_num_params
    for name, module in model.named_modules():
        count = sum(p.numel() for p in module.parameters())
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and count > least:
            raise UserError(
                f"fsdp_auto_wrap_policy: SIZE_BASED_WRAP would wrap {name}, a {type(module).__name__} of {count}"
                " numbers, which has no forward: take NO_WRAP, TRANSFORMER_BASED_WRAP, or a larger fsdp_min_num_params."
            )
    if model.microbatch is not None and plugin.auto_wrap_policy is not None:
        raise UserError(
            "--microbatch under FSDP2 needs fsdp_auto_wrap_policy: NO_WRAP: a part that is gathered and given back by"
            " itself has no parameters left where the micro-batches' gradients are summed."
        )


def wrap(model: "Model", optimizer: torch.optim.Optimizer, accelerator: "Accelerator", ignored: list[str]) -> Any:
    """The wrapped model and optimiser, where DistributedDataParallel waits for no parameter named in `ignored`."""
    from accelerate.utils import DynamoBackend

    dynamo: Any = accelerator.state.dynamo_plugin
    backend, dynamo.backend = dynamo.backend, DynamoBackend.NO  # or Accelerate would compile all of the model
    try:
        if is_sharding(accelerator):
            return _sharded(model, optimizer, accelerator)
        if backend is not DynamoBackend.NO:
            _compile_encoders(model, {**dynamo.to_kwargs(), "backend": backend.value.lower()})
        return _copied(model, optimizer, accelerator, ignored)
    finally:
        dynamo.backend = backend


def _compile_encoders(model: "Model", how: dict[str, Any]) -> None:
    """What accelerate's --dynamo_backend asks for, of encoders alone: scores are the engine's own walk."""
    for name, part in model.named_children():
        if name.startswith("encoder"):
            part.compile(**how)


def _copied(model: "Model", optimizer: torch.optim.Optimizer, accelerator: "Accelerator", ignored: list[str]) -> Any:
    own: Any = vars(model).get("_ddp_params_and_buffers_to_ignore", [])
    unused = {id(p) for name, p in model.named_parameters() if name in ignored}
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in unused]
    # A parameter of the model itself has a dot before its name in one of the two places where it is looked for.
    both: Any = [*own, *names, *(f".{name}" for name in names if "." not in name)]
    model._ddp_params_and_buffers_to_ignore = both
    try:
        return accelerator.prepare(model, optimizer)
    finally:
        model._ddp_params_and_buffers_to_ignore = own


def _sharded(model: "Model", optimizer: torch.optim.Optimizer, accelerator: "Accelerator") -> Any:
    """FSDP2's form; the optimiser keeps the state that it has.

    Critic and objective stay whole in every process: they are few numbers, read by other methods than forward(), and
    FSDP2 takes no parameter without a dimension, which a temperature is. reduce_whole() averages their gradients.
    """
    plugin: Any = accelerator.state.fsdp_plugin
    model.to(memory_format=torch.contiguous_format)  # pyright: ignore  # FSDP2 shards contiguous parameters alone
    small = [*model.critic.parameters(), *model.objective.parameters(), *_scalars(model)]
    plugin.ignored_modules = [nn.ParameterList(small)]
    before = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state.pop(p, {}) for p in before]
    # Nothing here writes into features in place, which that warns of, once a class and process.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    try:
        wrapped, prepared = accelerator.prepare(model, optimizer)
    finally:
        plugin.ignored_modules = None
    for module in model.modules():
        _gather_for_features(module)
    after = [p for group in optimizer.param_groups for p in group["params"]]
    for old, new, state in zip(before, after, states, strict=True):
        if state:
            optimizer.state[new] = {key: _like(value, old.shape, new) for key, value in state.items()}
    for group in optimizer.param_groups:
        kinds = {is_sharded(p) for p in group["params"]}
        if len(kinds) > 1:  # torch's fused loops take no list of both
            group["foreach"] = group["fused"] = False
    return wrapped, prepared


def reduce_whole(model: nn.Module, accelerator: "Accelerator") -> None:
    """After a backward: the mean over processes of the gradients that FSDP2 leaves alone, those of whole parameters."""
    for parameter in model.parameters():
        if parameter.grad is not None and not is_sharded(parameter):
            parameter.grad = accelerator.reduce(parameter.grad, "mean")  # pyright: ignore


def _scalars(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim == 0]


def _gather_for_features(module: nn.Module) -> None:
    """Other ways through an encoder, timm's and that of its places, gather its parameters as forward() does."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    if isinstance(module, FSDPModule):
        for name in ("forward_features", "forward_head", "places"):
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)


def _like(value: Any, shape: torch.Size, parameter: Tensor) -> Any:
    """A state of a parameter of `shape`, as the same state of its shards."""
    if not (is_sharded(parameter) and isinstance(value, Tensor) and value.shape == shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    # Every process has all of it, so none is sent.
    return distribute_tensor(value.contiguous(), sharded.device_mesh, sharded.placements, src_data_rank=None)
