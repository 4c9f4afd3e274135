"""Float64 all through, which transformers leaves in places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NothingNarrower(TorchFunctionMode):
    """Leaves float64 as it is where transformers computes in float32 (norms, softmaxes of eager attention, routers).

    Layouts sum in another order, which a step through float32 would turn into errors of 1e-8.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if not any(isinstance(one, Tensor) and one.dtype is torch.float64 for one in args):
            return func(*args, **kwargs)
        narrowed = any(one is torch.float32 for one in args[1:]) or kwargs.get("dtype") is torch.float32
        if func is Tensor.float or (func is Tensor.to and narrowed):
            return args[0]
        if narrowed and "dtype" in kwargs:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
