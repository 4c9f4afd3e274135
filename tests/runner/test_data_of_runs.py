"""Whole runs on data of other layouts: mixtures, several responses, ties, tools; and the second run from the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rm_experiments import compose, train
from rm_experiments.runner.prepare import prepare

TINY = (
    "tracking=none", "train.device=cpu", "train.precision=fp32", "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32", "model.scratch.num_heads=2", "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=300", "train.batch_size=4", "eval=start_end",
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(directory: Path, *overrides: str) -> Path:
    result = train(compose([*TINY, f"run_dir={directory}", *overrides]))
    assert (result.status, result.exit_code) == ("finished", 0)
    return directory


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def responses(prompt: int) -> dict[str, Any]:
    texts = ["no", "yes", "well yes", "yes and more"]
    return {"prompt": f"question {prompt}", "responses": texts, "scores": [prompt % 2, 1, 2, 3]}


def test_several_responses_share_the_weight_of_a_prompt_and_ties_are_outside_accuracy(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [responses(number) for number in range(6)])
    directory = run(tmp_path / "run", "data=local", f"data.train={rows}", f"data.eval={rows}", "train.max_steps=3")
    report = read(directory / "data_report.json")["splits"]["eval"]
    assert (report["format"], report["rows_read"], report["pairs_read"], report["label_ties"]) == (
        "responses",
        6,
        36,
        3,
    )
    table = pq.read_table(directory / "eval" / "step_00000003" / "eval.parquet")
    weight, label, margin = (table[name].to_numpy() for name in ("weight", "label", "margin"))
    assert weight.tolist() == [1 / 6] * 36
    metrics = read(directory / "summary.json")["final"]
    decided = label != 0.5
    assert decided.sum() == 33
    assert metrics["eval_accuracy"] == pytest.approx(float(np.mean(margin[decided] > 0)), rel=1e-12)
    assert metrics["eval_num_pairs"] == 36


def test_mixture_reports_the_share_that_was_trained_on(tmp_path: Path) -> None:
    parts = [
        write(
            tmp_path / f"{name}.jsonl",
            [{"prompt": f"{name} {n}", "chosen": "yes", "rejected": "no"} for n in range(12)],
        )
        for name in "ab"
    ]
    directory = run(
        tmp_path / "run", "data=mixture", f"+data.mixture.a={{source: {parts[0]}, weight: 3}}",
        f"+data.mixture.b={{source: {parts[1]}, weight: 1}}", f"data.eval={parts[1]}", "train.max_steps=8",
    )  # fmt: skip
    seen = read(directory / "summary.json")["mixture"]
    # 24 pairs an epoch, 18 of a and 6 of b, and a third of the second epoch.
    assert seen["a"]["pairs"] + seen["b"]["pairs"] == 32
    assert 18 <= seen["a"]["pairs"] <= 26
    assert seen["a"]["share"] == seen["a"]["pairs"] / 32
    card = (directory / "final" / "README.md").read_text(encoding="utf-8")
    assert f"| 18 | 75.0% | {seen['a']['share']:.1%} |" in card
    assert read(directory / "data_report.json")["splits"]["train"]["mixture"]["b"]["share"] == 0.25


def test_tools_and_tool_calls_train_and_score_what_the_template_gives(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = tmp_path / "tools.jinja"
    template.write_text(
        "{% for tool in tools or [] %}tool {{ tool['name'] }}\n{% endfor %}"
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
        "{% for call in message['tool_calls'] or [] %} call {{ call['function']['name'] }}{% endfor %}\n{% endfor %}"
    )
    prompt = [
        {"role": "user", "content": "1 + 1? <|eos|>"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "2"},
    ]
    rows = [
        {"prompt": prompt, "chosen": [{"role": "assistant", "content": "2"}], "tools": [{"name": "add"}],
         "rejected": [{"role": "assistant", "content": str(number)}]}
        for number in range(3, 11)
    ]  # fmt: skip
    source = write(tmp_path / "rows.jsonl", rows)
    directory = run(
        tmp_path / "run", "data=local", f"data.train={source}", f"data.eval={source}", "train.max_steps=2",
        f"data.chat_template={template}",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(directory / "final")
    for line, row in zip((directory / "final" / "probe.jsonl").read_text().splitlines(), rows, strict=True):
        for side in ("chosen", "rejected"):
            ids = tokenizer.apply_chat_template(prompt + row[side], tools=row["tools"], return_dict=False)
            assert json.loads(line)[f"input_ids_{side}"] == ids
            assert ids.count(tokenizer.eos_token_id) == 1
    assert "tool add\n" in tokenizer.decode(ids)
    assert " call add" in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        ((), []),
        (
            ("words.jinja",),
            ["name tools, which the chat template", "call tools, which the chat template"],
        ),
    ],
)
def test_tools_that_the_template_leaves_out_are_said(
    tmp_path: Path, templates: tuple[str, ...], said: list[str]
) -> None:
    (tmp_path / "words.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    overrides = [f"data.chat_template={tmp_path / name}" for name in templates]
    prompt = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "tool_calls": [CALL]}]
    row = {"prompt": [*prompt, {"role": "tool", "content": "2"}], "tools": [{"name": "add"}]}
    rows = [{**row, "chosen": "2", "rejected": "3"}, {"prompt": "hi", "chosen": "a", "rejected": "b"}]
    source = write(tmp_path / "rows.jsonl", rows)
    config = compose([*TINY, "data=local", f"data.train={source}", f"data.eval={source}", *overrides])
    notes = [note for note in prepare(config).notes if note.startswith("Tools:")]
    assert notes == [
        f"Tools: 1 pairs of {name} {words} does not show to the model." for name in ("train", "eval") for words in said
    ]


def test_best_achievable_is_not_said_of_a_set_that_lost_pairs() -> None:
    sandbox = ("data=sandbox", "data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=8")
    whole = prepare(compose([*TINY, *sandbox, "data.overlength=drop"]))
    assert whole.splits.best_achievable_loss is not None
    sizes = np.sort(whole.evaluation["eval"].pair_lengths)
    limit = int(sizes[-1]) - 1
    lost = int((sizes > limit).sum())
    prepared = prepare(compose([*TINY, *sandbox, "data.overlength=drop", f"data.max_length={limit}"]))
    assert (prepared.splits.best_achievable_accuracy, prepared.splits.best_achievable_loss) == (None, None)
    assert [note for note in prepared.notes if note.startswith("Best")] == [
        f"Best achievable: not known for eval, of whose pairs {lost} are dropped as too long."
    ]


def test_second_run_reads_the_cache_and_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rows.jsonl", [responses(number) for number in range(8)])
    overrides = ("data=local", f"data.train={source}", "train.max_steps=2", f"data.cache_dir={tmp_path / 'cache'}")
    first = run(tmp_path / "first", *overrides)
    made = sorted((tmp_path / "cache").iterdir())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr("rm_experiments.data.tokenization.tokenize_table", refuse)
    monkeypatch.setattr("rm_experiments.data.loading.write_table", refuse)
    second = run(tmp_path / "second", *overrides)
    assert sorted((tmp_path / "cache").iterdir()) == made
    assert read(first / "data_report.json") == read(second / "data_report.json")
    assert read(first / "summary.json")["final"] == read(second / "summary.json")["final"]
    weights = [(path / "final" / "model.safetensors").read_bytes() for path in (first, second)]
    assert weights[0] == weights[1]
