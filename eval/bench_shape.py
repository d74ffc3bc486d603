"""How fast a LLaMA of some shape decodes on a device, against what its memory could deliver.

The weights are drawn on the device: speed does not depend on what they say, and nothing is downloaded. Each step reads
all of them, and of every reply the keys and values so far; one token a reply comes out of it. A device that did nothing
but read would be done in bytes / bandwidth, and the share of that limit is what is reported. The bandwidth is measured
by a large copy on the same device (what is read and what is written both count); the vendor's figure can be given.
Prompts are computed before the clock starts. Tokens are chosen greedily and come back to the processor at every step,
as the engine needs them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from emollama.config import PRESETS, LlamaShape
from emollama.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from emollama.backbones.lean import LeanLlama

# name -> shape; "tiny" is for trying the command out
SHAPES: Mapping[str, LlamaShape] = {
    "tiny": LlamaShape(
        vocab_size=512, hidden_size=64, intermediate_size=176, num_layers=2, num_heads=4, num_kv_heads=2,
        max_positions=1024,
    ),
    "nano": PRESETS["nano"].backbone,
    "llama-7b": LlamaShape(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_layers=32, num_heads=32, num_kv_heads=32,
        max_positions=4096,
    ),
    "llama-8b": LlamaShape(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_layers=32, num_heads=32, num_kv_heads=8,
        rope_theta=500_000.0, max_positions=8192,
    ),
}  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")
_COPIED_BYTES = {"cuda": 2**30, "cpu": 2**26}  # more than any cache holds
_COPIES = 10


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """So many replies at once: the seconds of every run of ``num_tokens`` steps, and the bytes that a step read."""

    num_requests: int
    num_tokens: int
    seconds: tuple[float, ...]
    bytes_a_step: int

    def to_json_dict(self, *, bandwidth: float, vendor: float | None) -> dict[str, Any]:
        """Bandwidths are bytes a second."""
        steps = self.num_tokens / statistics.median(self.seconds)
        read = self.bytes_a_step * steps
        return {
            **asdict(self),
            "tokens_per_second": round(self.num_requests * steps, 1),
            "bytes_a_token": round(self.bytes_a_step / self.num_requests),
            "gigabytes_per_second": round(read / 1e9, 2),
            "share_of_measured_bandwidth": round(read / bandwidth, 4),
            "share_of_vendor_bandwidth": None if vendor is None else round(read / vendor, 4),
        }


def shape_of(name: str) -> LlamaShape:
    if name not in SHAPES:
        raise UnknownNameError("shape", name, SHAPES)
    return SHAPES[name]


def random_model(name: str, *, device: torch.device, dtype: str, seed: int) -> LeanLlama:
    """Draw a model of a named shape; raises `InputError` for a type that is not allowed or memory that is not there."""
    import torch

    from emollama.backbones.lean import LeanLlama

    shape = shape_of(name)
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}", field="dtype")
    try:
        return LeanLlama.with_random_weights(shape, dtype=getattr(torch, dtype), device=device, seed=seed)
    except torch.OutOfMemoryError as error:
        raise InputError(f"shape {name} in {dtype} does not fit into the memory of {device}", field="shape") from error


def measure_decoding(
    model: LeanLlama, *, num_requests: int, num_tokens: int, prompt: int, runs: int, seed: int
) -> Decoding:
    """Decode ``num_tokens`` after prompts of ``prompt`` random tokens, once to warm up and ``runs`` times."""
    import torch

    from emollama.runtime import DecodeBatch, Prefix

    if prompt + num_tokens > model.shape.max_positions:
        raise InputError(
            f"a prompt of {prompt} and {num_tokens} tokens do not fit; allowed: {model.shape.max_positions} together",
            field="tokens",
        )
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.shape.vocab_size, (num_requests, prompt), generator=draw)
    batch, seconds = DecodeBatch(model), []
    for _ in range(runs + 1):
        for row in ids:  # one by one: what a prompt takes on the way is memory that the batch may need
            cache = model.new_cache(rows=1, capacity=prompt)
            prefix = Prefix(cache, model.extend(cache, [model.embed(row.to(model.device))]))
            batch.admit(prefix, 0, reserve=num_tokens)
        wait_for(model.device)
        started = time.perf_counter()
        for _ in range(num_tokens):
            batch.advance([[token] for token in batch.likeliest()])
        wait_for(model.device)
        seconds.append(time.perf_counter() - started)
        for row in reversed(range(num_requests)):
            batch.drop(row)
    return Decoding(
        num_requests=num_requests,
        num_tokens=num_tokens,
        seconds=tuple(round(value, 6) for value in seconds[1:]),
        bytes_a_step=bytes_a_step(model, num_requests=num_requests, num_tokens=num_tokens, prompt=prompt),
    )


def bytes_a_step(model: LeanLlama, *, num_requests: int, num_tokens: int, prompt: int) -> int:
    """Return what the mean step must read: the weights once, and of each reply the keys and values of its tokens."""
    shape, item = model.shape, model.embedding.element_size()
    held = prompt + (num_tokens + 1) / 2  # the first step looks at one token more than the prompt, its own
    of_a_token = 2 * shape.num_layers * shape.num_kv_heads * shape.size_of_head * item
    return model.num_bytes + round(num_requests * (held * of_a_token + shape.hidden_size * item))


def measure_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that a large copy on the device reads and writes, the best of several."""
    import torch

    num_bytes = _COPIED_BYTES["cuda" if device.type == "cuda" else "cpu"]
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(_COPIES):
        wait_for(device)
        started = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * num_bytes / best


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"


def shape_table(found: Sequence[Mapping[str, Any]], *, title: str) -> Any:
    """Return what was measured as a table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("replies at once", "tokens/s", "MB a token", "GB/s", "of the measured limit", "of the vendor's"):
        table.add_column(name, justify="right")
    for each in found:
        vendor = each["share_of_vendor_bandwidth"]
        table.add_row(
            str(each["num_requests"]), f"{each['tokens_per_second']:.0f}", f"{each['bytes_a_token'] / 1e6:.1f}",
            f"{each['gigabytes_per_second']:.1f}", f"{each['share_of_measured_bandwidth']:.0%}",
            "-" if vendor is None else f"{vendor:.0%}",
        )  # fmt: skip
    return table
