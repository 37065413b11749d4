"""The two floors under a time: operations over the measured rate of matrix products, bytes over the measured bandwidth."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry


class Traffic(TorchDispatchMode):
    """Bytes that matrix operations read and write; all between them might be fused into them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in flop_registry:  # a convolution in inference mode is a composite of one that is
            with self:
                if (parts := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return parts
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            parts = [*args, *(result if isinstance(result, tuple | list) else [result])]
            self.bytes += sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))
        return result


def count(work: Callable[[], object]) -> tuple[int, int]:
    """Operations, and bytes of the matrix operations, of `work` in plain float32."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        work()
    return flops.get_total_flops(), traffic.bytes


def machine(device: str) -> tuple[dict[torch.dtype, float], float]:
    """Measured operations a second of matrix products in each type, and bytes a second of a copy."""
    side = 8192 if device == "cuda" else 2048

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            begun = clock(device)
            work()
            times.append(clock(device) - begun)
        return min(times)

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        rates[dtype] = 2 * side**3 / best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    source = torch.zeros(2**30 if device == "cuda" else 2**26, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return rates, 2 * source.numel() * 4 / best(lambda: target.copy_(source))


def clock(device: str) -> float:
    """Now, when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
