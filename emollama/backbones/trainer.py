"""The usual way of training LoRA, to measure ours against: transformers' ``Trainer`` over a PEFT model.

Nothing here is ours but the model's forward pass, written as one would with transformers alone: features overwrite
placeholders in the embeddings, ``LlamaForCausalLM`` gives the logits of every position, and the loss is taken from
them. Batches come ready made, so that only the training itself is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# (logits [B, T, V], a batch) -> the scalar loss
LossOf = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainerRun:
    """What a run of the ``Trainer`` took, from its first batch to its last update, and its losses batch by batch."""

    seconds: float
    losses: tuple[float, ...]


class PlainModel(nn.Module):
    """An `EmoLlama` as transformers would run it: all logits, in one forward pass that takes a batch."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model = model
        self._loss_of = loss_of
        self.losses: list[Tensor] = []

    def forward(self, batch: Any) -> dict[str, Tensor]:
        emollama: Any = self.model
        output = emollama.backbone(
            inputs_embeds=emollama.embed(batch.inputs), attention_mask=batch.inputs.attention_mask, use_cache=False
        )
        loss = self._loss_of(output.logits, batch)
        self.losses.append(loss.detach())
        return {"loss": loss}


def train_with_trainer(
    model: nn.Module,
    batches: Sequence[Any],
    loss_of: LossOf,
    *,
    learning_rate: float,
    weight_decay: float,
    clip_norm: float,
    seed: int,
) -> TrainerRun:
    """Train over the batches once, in their order, at a constant rate, on the CPU in float32."""
    from torch.utils.data import Dataset, SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    begun = ended = 0.0

    class Given(Dataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            nonlocal begun
            begun = begun or time.perf_counter()
            return batches[index]

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class End(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal ended
            ended = time.perf_counter()

    plain = PlainModel(model, loss_of)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            per_device_train_batch_size=1,  # one ready-made batch
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            weight_decay=weight_decay,
            max_grad_norm=clip_norm,
            use_cpu=True,
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=20,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = InOrder(
            model=plain,
            args=arguments,
            train_dataset=Given(),
            data_collator=lambda rows: {"batch": rows[0]},
            callbacks=[End()],
        )
        trainer.train()
    return TrainerRun(seconds=ended - begun, losses=tuple(float(loss) for loss in plain.losses))
