"""Launch settings: what cannot be, and what would have no effect, is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rm_experiments.config.compose import compose_run_config
from rm_experiments.config.launch_validation import STRATEGY_NAMES
from rm_experiments.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "launch"

# fmt: off
REFUSED = {
    "launch.strategy=fsdp2": "launch.strategy=fsdp2: allowed are ddp, fsdp; try launch=fsdp2",
    "launch.strategy=deepspeed":
        "launch.strategy=deepspeed: is not supported, docs/scaling.md says why; try launch=fsdp2",
    "launch=deepspeed": "launch=deepspeed: DeepSpeed is not supported, docs/scaling.md says why; try launch=fsdp2",
    "launch=deepspeed_zero3":
        "launch=deepspeed_zero3: DeepSpeed is not supported, docs/scaling.md says why; try launch=fsdp2",
    "launch.fsdp_cpu_offload=true":
        "launch.fsdp_cpu_offload=true: no effect with launch.strategy=ddp; try launch=fsdp2",
    "launch=one_node launch.fsdp_reshard_after_forward=false":
        "launch.fsdp_reshard_after_forward=false: no effect with launch.strategy=ddp; try launch=fsdp2",
    "launch=fsdp2 launch.num_processes=1":
        "launch.num_processes=1: launch.strategy=fsdp spreads a model over several processes; try "
        "launch.num_processes=2",
    "launch=fsdp2 train.device=mps":
        "launch.strategy=fsdp: is not possible with train.device=mps; try launch=inline",
    "launch=fsdp2 train.device=cpu launch.fsdp_cpu_offload=true":
        "launch.fsdp_cpu_offload=true: no effect with train.device=cpu; leave it out",
    "launch=fsdp2 train.precision=fp16":
        "train.precision=fp16: is not possible with launch.strategy=fsdp; try train.precision=bf16",
    "launch=fsdp2 train.compile=true":
        "train.compile=true: is not possible with launch.strategy=fsdp; try train.compile=false",
}
# fmt: on


@pytest.mark.parametrize("line", REFUSED)
def test_a_launch_that_cannot_be_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(REFUSED[line])}$"):
        compose_run_config(line.split())


@pytest.mark.parametrize(
    ("option", "name", "num_processes", "strategy"),
    [
        ("inline", "inline", 1, "ddp"),
        ("one_node", "accelerate", 8, "ddp"),
        ("fsdp2", "accelerate", 8, "fsdp"),
        ("two_nodes", "torchrun", 16, "fsdp"),
    ],
)
def test_the_options_of_launch(option: str, name: str, num_processes: int, strategy: str) -> None:
    launch = compose_run_config([f"launch={option}"]).launch

    assert (launch.name, launch.num_processes, launch.strategy) == (name, num_processes, strategy)
    assert strategy in STRATEGY_NAMES


def test_settings_of_fsdp_that_are_allowed() -> None:
    overrides = ["launch=fsdp2", "launch.num_processes=2", "launch.fsdp_reshard_after_forward=false"]
    launch = compose_run_config([*overrides, "launch.fsdp_cpu_offload=true", "train.precision=bf16"]).launch

    assert (launch.fsdp_reshard_after_forward, launch.fsdp_cpu_offload) == (False, True)
    assert compose_run_config(["launch.strategy=fsdp"]).launch.name == "inline"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_comment_of_an_option_is_its_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]

    assert re.match(r"# .*(rm-train|-m rm_experiments)( |$)", first)
    assert f"launch={path.stem}" in first or path.stem == "inline"
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8"))["num_processes"], int)
