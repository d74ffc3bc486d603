"""FSDP2 and DeepSpeed: modules whose weights, gradients or optimiser state lie in parts on several processes.

Both are asked directly, with the values that the launcher's file set and accelerate's plug-ins read: accelerate itself
prepares them on accelerators only, and so the code that runs on GPUs is the code that two processes on a CPU are tested
with.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from emollama.errors import DependencyError
from train.config import TrainConfig


def shard(module: nn.Module) -> None:
    """Let torch shard every layer that its model does not split (or that the file names), then the rest as one unit."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import fully_shard

    plugin = FullyShardedDataParallelPlugin()  # reads what the launcher put into the environment
    settings = {"reshard_after_forward": plugin.reshard_after_forward, "offload_policy": plugin.cpu_offload}
    named = set(plugin.transformer_cls_names_to_wrap or ())
    for inner in module.modules():
        named |= set(getattr(inner, "_no_split_modules", None) or ())
    for inner in list(module.modules()):
        if type(inner).__name__ in named:
            fully_shard(inner, **settings)
    fully_shard(module, **settings)


def build_engine(module: nn.Module, optimizer: Optimizer, config: TrainConfig) -> Any:
    """Return DeepSpeed's engine, which accumulates, clips and updates; raises `DependencyError` without DeepSpeed."""
    try:
        import deepspeed
    except ImportError as error:
        raise DependencyError("this strategy needs DeepSpeed: pip install deepspeed") from error
    from accelerate.utils import DeepSpeedPlugin

    settings = dict(DeepSpeedPlugin().deepspeed_config)
    del settings["train_batch_size"]
    settings |= {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": 1,  # the loop says where a step ends
        "gradient_clipping": config.clip_norm or 0.0,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,  # SGD
    }
    return deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
