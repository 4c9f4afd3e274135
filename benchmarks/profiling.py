"""Where the time of a step goes: kernels by what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from measuring import Moment, Row
from torch.profiler import ProfilerActivity

KINDS = {
    "attention": ("flash", "fmha", "flex", "varlen", "scaled_dot_product", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "aten::mm", "aten::addmm", "aten::bmm", "splitk"),
    "optimizer and clipping": ("adam", "foreach", "multi_tensor", "l2norm", "lpnorm"),
    "copies and casts": ("memcpy", "memset", "copy", "cat"),
    "normalisation and reductions": ("reduce", "layer_norm", "rms_norm", "aten::mean", "aten::sum"),
    "embedding": ("embedding", "index"),
}
"""Parts of kernels' names, the first match counts; everything else is elementwise."""
_SHOWN = 12


def profile(step: Callable[[], Any], device: str) -> Row:
    """Shares of the time of one step, and its kernels that take most. On a CPU of operators instead of kernels."""
    step()
    start = Moment.now(device)
    step()
    taken = Moment.now(device) - start
    times = _kernels(step, device) if device == "cuda" else _operators(step)
    if not times:
        # Without CUPTI (in some virtual machines) kernels are not seen: operators, timed by events on the device.
        times = _operators_on_device(step)
    total = sum(times.values()) or float("nan")
    shares: dict[str, float] = {}
    for name, seconds in times.items():
        kind = _kind(name)
        shares[kind] = shares.get(kind, 0.0) + seconds / total
    most = sorted(times.items(), key=lambda one: -one[1])[:_SHOWN]
    return {
        "step seconds": taken.wall,
        "busy seconds": total,
        "shares": {name: round(one, 4) for name, one in sorted(shares.items(), key=lambda one: -one[1])},
        "most": [{"name": name[:100], "share": round(seconds / total, 4)} for name, seconds in most],
    }


def _kernels(step: Callable[[], Any], device: str) -> dict[str, float]:
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        Moment.now(device)
    # Operators and annotations have their kernels' time, too: only the kernels themselves are counted.
    return {
        event.key: event.self_device_time_total / 1e6
        for event in found.key_averages()
        if event.device_type is torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    }


def _operators(step: Callable[[], Any]) -> dict[str, float]:
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    return {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}


def _operators_on_device(step: Callable[[], Any]) -> dict[str, float]:
    with torch.autograd.profiler.profile(use_device="cuda", use_kineto=False) as found:
        step()
    return {event.key: event.self_device_time_total / 1e6 for event in found.key_averages()}


def _kind(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "elementwise")
