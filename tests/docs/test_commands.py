"""Every command in README.md, CONTRIBUTING.md and docs/: composed and checked, run where that is quick, or looked up.

A new page needs nothing here. A command that is of no known program fails, and so does a block that is neither
commands, rows, a listing of files nor what a program prints.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import rm_experiments
from rm_experiments.config.compose import _HELP as SCHEMAS
from rm_experiments.config.compose import register_schema, schema_keys
from rm_experiments.config.data_schema import DataConfig, EvalSetConfig
from rm_experiments.config.evaluation_schema import EvaluationConfig
from rm_experiments.config.schema import Device
from rm_experiments.data.cache import DataCache
from rm_experiments.data.splits import load_evaluation
from tests.cli.typed import exit_code
from tests.docs.commands import (
    ELSEWHERE,
    MENTIONED,
    OURS,
    TESTED,
    TOOLS,
    checked,
    compose_sweep,
    elsewhere,
    is_sweep,
    launched,
    look_up,
    main_of,
    recipe_commands,
)
from tests.docs.markdown import PAGES, ROOT, Block, Command, blocks, shell_lines, spans, typed
from tests.docs.said import is_said
from tests.docs.workspace import make_workspace, things

SHELL = ("", "bash", "sh", "shell", "console")
PROGRAMS = {*OURS, *TOOLS, "$", "torchrun", "accelerate", "python", "pip", *(one.split()[0] for one in ELSEWHERE)}
BLOCKS = [block for page in PAGES for block in blocks(page)]
LISTINGS = {
    "outputs/rm/DATE/": "outputs/rm/DATE", "outputs/sweeps/NAME/DATE/": None, "config/": str(ROOT / "rm_experiments"),
}  # fmt: skip
"""Listings of files by their first word, and where those files are; None: there is no small one of it."""
NEEDS = {
    "hydra/launcher=slurm": "a cluster", "launch=two_nodes": "a cluster", "--nproc_per_node": "a cluster or GPUs",
    "launch=one_node": "GPUs", "launch=fsdp2": "GPUs or time",
    "hub.push=true": "the Hub", "rm-push": "the Hub", "model=qwen2_5_0_5b": "the Hub", "data=ultrafeedback": "the Hub",
    "benchmark=[reward_bench": "the Hub", "rm-dashboard project=": "W&B",
}  # fmt: skip
"""Parts of commands that are composed and checked, and never run, by what they need."""
PARTS = {"lr", "use_margin", "label_smoothing", "paged", "pruner"}
"""Settings that a table about one section names without it."""
OTHERS = {
    "task_type", "modules_to_save", "reward_funcs", "mask_truncated_completions", "add_special_tokens",
    "function_to_apply", "value_model", "reward.reward_model.enable", "reward.reward_model.model_path", "weights_only",
    "scale_wrt_gas", "whole_step",
    "reward_processing_classes", "key",
}  # fmt: skip
"""Arguments of functions and programs of others, and of our functions."""
NAMED = ("data.eval_sets", "data.mixture", "data.audit_limits", "data.chat_template_kwargs")
"""Settings whose entries have names of the user's own."""
RUN = {
    "rm-data data=local data.train=train.jsonl.gz": "data.html",
    "rm-eval checkpoint=outputs/rm/DATE": "outputs/eval",
    "rm-compare outputs/a/DATE outputs/b/DATE": "compare.html",
    "rm-push outputs/rm/DATE dry_run=true": "model.safetensors",
    "rm-dashboard dry_run=true": "Accuracy",
}  # fmt: skip
"""Commands that are really run, quick as they are, and a word of what they print."""


def kind(block: Block) -> str:
    """What a block is by its language and how it begins."""
    first = block.lines[0].split()[0] if block.lines else ""
    if block.language not in SHELL:
        return block.language
    if first.startswith("{"):
        return "rows"
    if first in LISTINGS:
        return "listing"
    return "said" if first not in PROGRAMS and is_said(block.text) else "commands"


def of_kind(name: str) -> list[Any]:
    return [pytest.param(one, id=one.where) for one in BLOCKS if kind(one) == name]


def fenced() -> Iterator[Command]:
    for block in BLOCKS:
        if kind(block) == "commands":
            for where, line, _ in shell_lines(block):
                # What a server answers.
                if line.startswith("{") and json.loads(line):
                    continue
                yield from typed(where, line)


def inline() -> Iterator[Command]:
    """Spans that begin with a program and go on; one word alone is a name."""
    for page in PAGES:
        for where, text in spans(page):
            words = text.split()
            while words and words[0].isupper() and "=" in words[0]:
                words = words[1:]
            if len(words) > 1 and words[0] in PROGRAMS:
                yield from typed(where, text)


COMMANDS: dict[tuple[str, ...], Command] = {}
for _command in [*fenced(), *inline()]:
    COMMANDS.setdefault(_command.words, _command)


def ours(command: Command) -> tuple[str, ...] | None:
    """The words of our own program that a command starts."""
    return command.words if command.words[0] in OURS else launched(command)


def _one_picture(path: Path, *_: Any) -> None:
    (path / "plots").mkdir()
    (path / "plots" / "training.png").touch()


@pytest.fixture(scope="module")
def workspace(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name."""
    root = tmp_path_factory.mktemp("docs")
    data = DataConfig(eval_sets={"sandbox_best_of_n": EvalSetConfig(
        source="sandbox:best_of_n:prompts=6,answers=4", format="best_of_n", benchmark="best_of_n"
    )})  # fmt: skip
    config = EvaluationConfig(checkpoint=str(trained_run), run_dir=str(root / "best_of_n"), data=data)
    config.train.device = Device.cpu
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rm_experiments.runner.evaluate.write_plots", _one_picture)
        rm_experiments.evaluate(config)
    (records,) = (root / "best_of_n" / "eval").glob("*/sandbox_best_of_n.parquet")
    make_workspace(root, trained_run, records)
    return root


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """The same objects again and again: registering the schemas takes a fifth, collecting garbage more."""
    gc.disable()
    with pytest.MonkeyPatch.context() as patch:
        register_schema()
        for module in ("train", "evaluate", "data", "compare", "merge", "push", "dashboard"):
            importlib.import_module(f"rm_experiments.cli.{module}")
        for name, module in sys.modules.items():
            if name.startswith("rm_experiments.") and getattr(module, "register_schema", None) is register_schema:
                patch.setattr(module, "register_schema", lambda: None)
        yield
    gc.enable()


@pytest.fixture
def there(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


def shown() -> list[Any]:
    """Commands with what they print below them."""
    return [
        pytest.param(where, line, output, id=where)
        for block in BLOCKS
        if kind(block) == "commands"
        for where, line, output in shell_lines(block)
        if output
    ]


def to_check() -> list[Any]:
    """What no other test composes or runs."""
    shown_with_output = {one.values[1].removeprefix("$ ") for one in shown()}
    others = recipe_commands() | MENTIONED | set(TESTED) | set(RUN) | shown_with_output
    return [pytest.param(one, id=f"{one.where} {one.text}"[:90]) for one in COMMANDS.values() if one.text not in others]


@pytest.mark.parametrize("command", to_check())
def test_the_command_is_what_the_program_takes(
    command: Command, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ours(command)
    if words is None:
        assert look_up(command) is None
        return
    before = sorted(there.rglob("*"))
    if is_sweep(words):
        compose_sweep(words)
    else:
        code = checked(words, monkeypatch)
        assert (code, capsys.readouterr().err) == (0, ""), command.text
    assert sorted(there.rglob("*")) == before


@pytest.mark.parametrize("text", RUN)
def test_quick_commands_do_what_they_say(
    text: str, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tuple(text.split())
    assert words in COMMANDS, f"{text}: no page has it any more"
    assert exit_code(monkeypatch, main_of(words[0]), *words) == 0
    assert RUN[text] in capsys.readouterr().out


@pytest.mark.parametrize(("where", "line", "output"), shown())
def test_what_is_shown_below_a_command_is_what_it_prints(
    where: str, line: str, output: list[str], there: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (command,) = typed(where, line)
    monkeypatch.setattr("sys.argv", list(command.words))
    with pytest.raises(SystemExit):
        main_of(command.words[0])()
    printed = capsys.readouterr()
    assert [one for one in (printed.out + printed.err).splitlines() if one] == [one for one in output if one]


@pytest.mark.parametrize("block", of_kind("python"))
def test_python_runs(block: Block, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.text, block.where, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", of_kind("rows"))
def test_rows_are_pairs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(block.text, encoding="utf-8")
    config = rm_experiments.compose(["data=local", f"data.train={tmp_path / 'rows.jsonl'}", "data.cache_dir=null"])
    split = load_evaluation(dataclasses.replace(config.data, eval=config.data.train, train=None), 0, DataCache(None))[
        "eval"
    ]
    assert len(split.rows) == len(block.lines)


@pytest.mark.parametrize("block", of_kind("text"))
def test_shown_output_is_what_the_program_says(block: Block) -> None:
    """But for rows of tables, whose cells are set apart by several spaces."""
    lines = [line for line in block.lines if len(line) > 12 and not re.search(r"\S {2,}\S", line.strip())]
    assert [line for line in lines if not is_said(line)] == []
    assert lines


@pytest.mark.parametrize("block", of_kind("json"))
def test_json_is_json(block: Block) -> None:
    for line in block.lines:
        json.loads(line if line.startswith(("{", "[")) else f"{{{line}}}")


@pytest.mark.parametrize("block", of_kind("yaml"))
def test_yaml_is_what_its_comment_says(block: Block, there: Path) -> None:
    """A group of ours composes; a sweep of W&B's types what `rm-train` takes."""
    values = yaml.safe_load(block.text)
    name = block.lines[0].removeprefix("# ").split()[0]
    if name == "sweep.yaml":
        chosen = {key: one.get("min", one.get("values", [None])[0]) for key, one in values["parameters"].items()}
        assert values["command"][1] == "rm-train"
        rm_experiments.compose([*values["command"][3:], *(f"{key}={value}" for key, value in chosen.items())])
    else:
        assert name == "my_votes.yaml", f"{block.where}: a test for it belongs here"
        keys = {f"data.{key}": value for key, value in values.items() if key != "columns"}
        keys |= {f"data.columns.{key}": value for key, value in values["columns"].items()}
        rm_experiments.compose(["data=local", *(f"{key}={json.dumps(value)}" for key, value in keys.items())])


@pytest.mark.parametrize("block", of_kind("listing"))
def test_listed_files_are_there(block: Block, there: Path) -> None:
    root = LISTINGS[block.lines[0].split()[0]]
    if root is None:
        return
    lines = block.lines if root.startswith("/") else block.lines[1:]
    for line in lines:
        assert (there / root / line.split()[0]).exists(), line


def test_languages_of_blocks_are_known() -> None:
    assert {kind(one) for one in BLOCKS} <= {"commands", "rows", "listing", "said", "text", "python", "json", "yaml"}


def test_nothing_is_listed_that_no_page_has() -> None:
    """Placeholders, needs, programs of others and what is run: each is in some page."""
    texts = [one.text for one in COMMANDS.values()]
    pages = "".join(one.read_text(encoding="utf-8") for one in PAGES)
    assert [one for one in NEEDS if not any(one in text for text in texts)] == []
    assert [one for one in ELSEWHERE if not any(one in elsewhere(command) for command in COMMANDS.values())] == []
    assert [one for one in MENTIONED | set(TESTED) if one not in texts] == []
    assert all("--help" in (ROOT / one).read_text(encoding="utf-8") for one in TESTED.values())
    assert [one for one in LISTINGS if one not in {block.text.split()[0] for block in BLOCKS}] == []
    # Of a sweep the pages name the whole, not each job.
    assert [one for one in things() if re.sub(r"/\d$", "", one) not in pages] == []
    # What needs something else is not run here.
    assert [text for text in RUN if "dry_run=true" not in text and any(one in text for one in NEEDS)] == []


OVERRIDE = re.compile(r"[+~]?([a-z_]+(?:[./][a-z_0-9A-Z]+)*)=\S*")


def keys_in_spans() -> Iterator[tuple[str, str]]:
    """(where, key) of every `key=value` in spans of code outside of commands."""
    for page in PAGES:
        for where, text in spans(page):
            if text.split()[0] in PROGRAMS:
                continue
            words = [one.strip("'\"") for one in text.split()]
            if all(OVERRIDE.fullmatch(one) for one in words):
                yield from ((where, OVERRIDE.fullmatch(one)[1]) for one in words)  # type: ignore[index]


def test_every_setting_in_the_text_exists() -> None:
    known = {key for schema in SCHEMAS for key in schema_keys(schema)}
    groups = {one.name for one in (ROOT / "conf").iterdir() if one.is_dir()}
    found = {key for _, key in keys_in_spans()}
    assert found >= OTHERS
    assert found >= PARTS
    known |= groups | OTHERS | PARTS
    unknown = [
        (where, key)
        for where, key in keys_in_spans()
        if key not in known and not key.startswith(("hydra.", "hydra/", *(f"{one}." for one in NAMED)))
    ]
    assert unknown == []
