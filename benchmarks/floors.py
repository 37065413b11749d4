"""The two floors under a time: operations over the measured rate of matrix products, bytes over the measured bandwidth."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

GIGA = 1e9
aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)  # type: ignore[no-any-return]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-any-return]


for operation, formula in ((aten._scaled_dot_product_flash_attention_for_cpu, _attention),
                           (aten._scaled_dot_product_flash_attention_for_cpu_backward, _attention_backward)):
    if operation not in flop_registry:  # torch knows the attention of GPUs alone
        register_flop_formula(operation)(formula)


@dataclass(frozen=True)
class Work:
    """What can't be done without.

    Attributes:
        products: operations of matrix products and attention.
        convolutions: operations of convolutions.
        bytes: what both read and write; all between them might be fused into them.
    """

    products: int = 0
    convolutions: int = 0
    bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.products + other.products, self.convolutions + other.convolutions, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(self.products * times, self.convolutions * times, self.bytes * times)


@dataclass(frozen=True)
class Machine:
    """What a device was measured to do.

    Attributes:
        rates: operations a second of matrix products: float32, tf32 (the same on a CPU) and bfloat16.
        bandwidth: bytes a second of a copy.
    """

    rates: dict[str, float]
    bandwidth: float

    def floors(self, work: Work, precision: str = "float32") -> tuple[float, float]:
        """Seconds by operations and by bytes; in float32 with torch's defaults, by which a GPU's convolutions are TF32."""
        convolving = self.rates["tf32" if precision == "float32" else precision]
        return work.products / self.rates[precision] + work.convolutions / convolving, work.bytes / self.bandwidth

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / GIGA:.0f} ({name})" for name, rate in self.rates.items())
        return f"products of matrices: {rates} Gop/s; copy: {self.bandwidth / GIGA:.0f} GB/s"


class Traffic(TorchDispatchMode):
    """Bytes that matrix operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and func._overloadpacket not in flop_registry:
            # a convolution in inference mode is a composite of one that is there
            with self:
                if (parts := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return parts
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            parts = [*args, *(result if isinstance(result, tuple | list) else [result])]
            self.bytes += sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))
        return result


def count(work: Callable[[], object]) -> Work:
    """What `work` does, in plain float32."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        work()
    found = {str(name): operations for name, operations in flops.get_flop_counts()["Global"].items()}
    convolutions = sum(operations for name, operations in found.items() if "convolution" in name)
    return Work(sum(found.values()) - convolutions, convolutions, traffic.bytes)


@contextmanager
def exact() -> Iterator[None]:
    """Products and convolutions of float32 without TF32 on a GPU."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


def machine(device: str) -> Machine:
    """Measure the device."""
    side = 8192 if device == "cuda" else 2048

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            begun = clock(device)
            work()
            times.append(clock(device) - begun)
        return min(times)

    def rate(dtype: torch.dtype, tf32: bool = False) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        with exact():
            torch.backends.cuda.matmul.allow_tf32 = tf32
            return 2 * side**3 / best(lambda: torch.mm(a, b, out=out))

    single = rate(torch.float32)
    rates = {"float32": single, "tf32": rate(torch.float32, tf32=True) if device == "cuda" else single,
             "bfloat16": rate(torch.bfloat16)}
    source = torch.zeros(2**30 if device == "cuda" else 2**26, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return Machine(rates, 2 * source.numel() * 4 / best(lambda: target.copy_(source)))


def clock(device: str) -> float:
    """Now, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
