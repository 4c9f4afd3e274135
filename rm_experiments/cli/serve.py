"""`rm-serve`: saved reward models behind HTTP."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from omegaconf import DictConfig

from rm_experiments.cli.application import run_application
from rm_experiments.config.compose import register_schema, to_dataclass
from rm_experiments.config.serve_schema import ServeConfig, check_serve, token_of
from rm_experiments.errors import ConfigError
from rm_experiments.launch import ranks

_PROGRAM = "rm-serve"
_PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def main() -> None:
    """Entry point of `rm-serve`. Exits with 130 or 143 when stopped; with 2 and one line when the input is wrong."""
    register_schema()
    run_application(_PROGRAM, "serve", _serve, sys.argv[1:], ServeConfig)


def _serve(composed: DictConfig) -> None:
    config = check_serve(to_dataclass(composed, ServeConfig))
    if ranks.world_size() > 1:
        raise ConfigError("rm-serve is one process; start one for each GPU, with CUDA_VISIBLE_DEVICES and a port")
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(f"rm-serve needs {' and '.join(missing)}; type pip install 'rm_experiments[serve]'")
    token = token_of(os.environ)
    from rm_experiments.serving.listening import listen

    # Before torch is imported: a port that is taken is said at once.
    with listen(config.host, config.port) as listener:
        from rm_experiments.serving.serve import serve

        sys.exit(serve(config, listener, token))


if __name__ == "__main__":
    main()
