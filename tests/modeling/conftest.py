"""What the tests of the layouts share."""

from __future__ import annotations

import pytest
from torch.overrides import TorchFunctionMode

from tests.modeling.float64 import NothingNarrower


@pytest.fixture(scope="session")
def float64() -> TorchFunctionMode:
    """`with float64:` all that begins in float64 is computed in it."""
    return NothingNarrower()
