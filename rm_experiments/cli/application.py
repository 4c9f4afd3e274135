"""What the commands share: Hydra composes, and whatever a user can mistype is answered by one line and exit code 2."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# Hydra would print its own text and exit with 1; this lets its errors reach the handler below.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.compose import explain, null_section
from rm_experiments.config.paths import conf_dir
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError, HangError, OutOfMemoryError, PushError, TrainingError, UserError
from rm_experiments.launch import ranks, watchdog
from rm_experiments.launch.signals import exit_on_signals


def refuse(program: str, message: str, code: int = 2, any_rank: bool = False) -> NoReturn:
    """Print one line and exit; of several processes only the first one prints, unless it is another one's own line."""
    if any_rank or ranks.rank() == 0:
        print(f"{program}: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


@contextmanager
def one_line_errors(program: str, arguments: list[str], schema: type = RunConfig) -> Iterator[None]:
    """Turn the errors of the user's input, whoever raises them, into one line and an exit code."""
    try:
        with exit_on_signals():
            yield
    except UserError as error:
        refuse(program, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        refuse(program, explain(error, schema))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        refuse(program, f"{error}; a group needs an option, as in model=tiny")
    except AssertionError as error:
        refuse(program, null_section(arguments, error))
    except HangError as error:
        refuse(program, str(error), watchdog.EXIT_CODE)
    except TrainingError as error:
        refuse(program, f"the run failed: {error}", 1, any_rank=isinstance(error, OutOfMemoryError))
    except PushError as error:
        refuse(program, str(error), 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        refuse(program, f"{error.filename or 'a file'}: {error.strerror}; free some and repeat the command", 1)
    except KeyboardInterrupt:
        refuse(program, "interrupted", 130)


def run_application(
    program: str, config_name: str, job: Callable[[DictConfig], Any], arguments: list[str], schema: type = RunConfig
) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and call `job`. There are no sweeps of these commands.

    Args:
        program: its name; the text of `--help` is `conf/hydra/help/<name>.yaml`.
        arguments: the command line.
    """

    def guarded(composed: DictConfig) -> None:
        # Hydra adds a line of its own to an error that leaves this function.
        with one_line_errors(program, arguments, schema):
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise ConfigError(f"hydra.mode=MULTIRUN: {program} has no sweeps; leave it out")
            job(composed)

    before = sys.argv
    try:
        with one_line_errors(program, arguments, schema):
            _refuse_sweep(program, arguments)
            # Hydra reads the command line itself. All commands share one `conf/`; only the text of --help differs.
            sys.argv = [before[0], *_with_override(arguments, f"hydra/help={program.replace('-', '_')}")]
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(guarded)()
    finally:
        sys.argv = before


def _with_override(arguments: list[str], override: str) -> list[str]:
    """Beside the other overrides: between flags, as in `a=1 --cfg job b=2`, they are not understood."""
    overrides = get_args_parser().parse_args(arguments).overrides
    at = arguments.index(overrides[0]) if overrides else 0
    return [*arguments[:at], override, *arguments[at:]]


def _refuse_sweep(program: str, arguments: list[str]) -> None:
    """Before Hydra makes the sweep's directory."""
    parsed = get_args_parser().parse_args(arguments)
    if parsed.multirun:
        raise ConfigError(f"--multirun: {program} has no sweeps; leave it out")
    for override in parsed.overrides:
        if override.startswith(("sweep=", "+sweep=", "hydra.mode=")) and not override.endswith("=null"):
            raise ConfigError(f"{override}: {program} has no sweeps; leave it out")


def directories_first(program: str, key: str, arguments: list[str]) -> list[str]:
    """`DIR DIR key=value` as `key=[DIR,DIR] key=value`.

    Raises:
        ConfigError: for a directory after an override.
    """
    parsed = get_args_parser().parse_args(arguments)
    # `~key` deletes, and the name of a directory may have a = in it.
    bare = [
        one for one in parsed.overrides
        if os.path.isdir(one) or ("=" not in one and (not one.startswith("~") or one.startswith("~/")))
    ]  # fmt: skip
    if not bare:
        return arguments
    typed = parsed.overrides[: len(bare)]
    if typed != bare:
        late = next(one for one in bare if one not in typed)
        raise ConfigError(f"{late}: directories come first, settings after, as in {program} {late} key=value")
    quoted = ",".join(map(_quoted, bare))
    # In their place: flags may stand before and after the overrides, not among them.
    at = arguments.index(bare[0])
    return [*arguments[:at], f"{key}=[{quoted}]", *arguments[at + len(bare) :]]


def _quoted(text: str) -> str:
    """Any text as a value that Hydra and OmegaConf read back as it is."""
    # `${` begins an interpolation, and backslashes count before it, before a quote and at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\*)\$\{", r"\1\1\\${", text))
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
