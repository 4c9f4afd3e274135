"""The model card: front matter that a hub parses, tables for people, and names that try to break out."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from rm_experiments.reporting.model_card import CardInputs, EvalSet, render_model_card, write_model_card

HOSTILE = "---\n<script>alert(1)</script>\n```\n| a | b |\n[x](javascript:alert) ![y](//z) `` \\| $z$ _q_ # -->"
LORA = {"name": "lora", "rank": 8}
SECTIONS = [
    "Score a pair", "Results", "Sanity checks", "Training", "Data", "Exact command", "Environment", "Reload check",
    "Limits", "To fill in", "Citation",
]  # fmt: skip


def card(**changes: Any) -> CardInputs:
    metrics = {"accuracy": 0.742, "loss": 0.52313, "ties": 0.001, "margin": 0.8123, "num_pairs": 1000}
    metrics |= {"mean_reward": 0.1, "min_reward": -4.1, "max_reward": 5.25, "accuracy_chosen_shorter": 0.7}
    metrics |= {"helpful-base_accuracy": 0.8, "helpful-base_num_pairs": 600}
    main: EvalSet = {"name": "eval", "source": "sandbox", "num_pairs": 1000, "metrics": metrics}
    second: EvalSet = {
        "name": "my_bench",
        "source": "org/bench:test",
        "num_pairs": 50,
        "metrics": {"accuracy": 0.6, "loss": math.nan, "margin": math.inf},
        "hub_id": "org/bench",
        "hub_split": "test",
    }
    values: dict[str, Any] = {
        "name": "my_run",
        "base_model": "org/base-model",
        "architecture": "LlamaForSequenceClassification",
        "model_kind": "decoder",
        "num_parameters": 1000,
        "num_trainable_parameters": 1000,
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "bos_token": "<|bos|>",
        "max_length": 512,
        "overlength": "truncate_prompt",
        "datasets": ["org/pairs"],
        "train_source": "org/pairs:train",
        "num_train_pairs": 6000,
        "data_counts": {"train": {"source": "s", "rows_read": 6001, "kept": 6000}, "eval": {"kept": 1000}},
        "eval_sets": [main, second],
        "best_achievable_accuracy": 0.781,
        "step": 100,
        "max_steps": 100,
        "epochs": 1.5,
        "batch_size": 32,
        "seed": 3,
        "loss": {"name": "bradley_terry", "use_margin": False},
        "optimizer": {"name": "adamw", "lr": 1e-05},
        "scheduler": {"name": "linear", "warmup_steps": None},
        "precision": "bf16",
        "saved_dtype": "bfloat16",
        "training_seconds": 3725.0,
        "history": [
            {"step": step, "kind": "eval", "eval_accuracy": 0.5, "eval_loss": 0.6, "eval_margin": 0.1}
            for step in range(0, 101, 5)
        ],
        "command": ["/home/someone/bin/rm-train", "name=my run"],
        "config_yaml": "seed: 3\n",
        "environment": {"torch": "2.13.0", "git_commit": None, "gpus": ["A", "B"]},
        "reload_difference": 0.00123,
        "reload_rows": 16,
        "reload_tolerance": 0.0349,
        "findings": [],
        "tags": ["mine"],
        "wandb_url": "https://wandb.ai/a/b/runs/c",
    }
    return CardInputs(**(values | changes))


def table_after(text: str, first_cell: str) -> list[str]:
    """The lines of the table whose header begins with `first_cell`."""
    start = text.index(f"| {first_cell} |")
    return text[start:].split("\n\n")[0].splitlines()


def tokens(text: str) -> list[Token]:
    """The body as a renderer sees it, raw HTML and tables allowed as on the Hub."""
    parsed = MarkdownIt("commonmark", {"html": True}).enable("table").parse(ModelCard(text).text)
    return [child for token in parsed for child in (token, *(token.children or ()))]


def headings(text: str) -> list[str]:
    seen = tokens(text)
    return [seen[i + 1].content for i, token in enumerate(seen) if token.type == "heading_open"]


def code_block(text: str, language: str) -> str:
    return next(token.content for token in tokens(text) if token.type == "fence" and token.info == language)


def test_front_matter_parses_and_holds_the_exact_values() -> None:
    data = ModelCard(render_model_card(card())).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert data.base_model == "org/base-model"
    assert data.datasets == ["org/pairs"]
    assert data.tags == ["reward-model", "rm_experiments", "mine"]
    assert data.metrics == ["accuracy"]
    assert data.model_name == "my_run"
    assert data.license is None
    assert data.language is None
    found = {(r.dataset_name, r.metric_type): r for r in data.eval_results or []}
    assert {key: result.metric_value for key, result in found.items()} == {
        ("eval", "accuracy"): 0.742,
        ("eval", "loss"): 0.52313,
        ("eval", "margin"): 0.8123,
        ("my_bench", "accuracy"): 0.6,  # its loss and margin are not finite
    }
    main, second = found["eval", "accuracy"], found["my_bench", "accuracy"]
    assert (main.dataset_type, main.dataset_args) == ("preference-pairs", {"num_pairs": 1000})
    assert (second.dataset_type, second.dataset_split) == ("org/bench", "test")
    assert [main.metric_name, second.metric_name] == ["eval_accuracy", "eval_my_bench_accuracy"]
    assert all(result.verified is None for result in found.values())


def test_sets_from_one_hub_data_set_stay_apart() -> None:
    sets = [
        {"name": name, "source": "", "num_pairs": 1, "metrics": {"accuracy": value}, "hub_id": "org/d"}
        for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    ]
    results = ModelCard(render_model_card(card(eval_sets=sets))).data.eval_results or []
    assert {result.dataset_name: result.metric_value for result in results} == {"a": 0.1, "b": 0.2, "c": 0.3}


def test_a_card_without_results_has_no_model_index() -> None:
    for sets in ([], [{"name": "eval", "source": "", "num_pairs": 0, "metrics": {"accuracy": math.nan}}]):
        text = render_model_card(card(eval_sets=sets))
        front = yaml.safe_load(text.split("---")[1])
        assert "model-index" not in front
        assert front["model_name"] == "my_run"
    assert "The model was not evaluated." in render_model_card(card(eval_sets=[]))


def test_sections_are_there_in_order() -> None:
    assert headings(render_model_card(card())) == ["my_run", *SECTIONS]


def test_summary() -> None:
    text = render_model_card(card())
    assert "starting from [org/base-model](https://huggingface.co/org/base-model), on 6,000 pref" in text
    assert "**Accuracy: 0.7420 on 1,000 evaluation pairs**; the best achievable" in text
    assert "is 0.7810." in text
    assert "best achievable" not in render_model_card(card(best_achievable_accuracy=None))
    assert "best achievable" not in render_model_card(card(best_achievable_accuracy=math.nan))
    assert "Not the end of the run" not in text
    assert "**Not the end of the run:** in training, step 1 of 2." in render_model_card(
        card(status="in training, step 1 of 2")
    )


def test_result_tables() -> None:
    text = render_model_card(card())
    header = "| Set | Data | Pairs | Accuracy | Loss | Margin | Mean reward | Min | Max | Ties |"
    assert table_after(text, "Set | Data") == [
        header,
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        "| eval | sandbox | 1,000 | 0.7420 | 0.5231 | 0.812 | 0.100 | -4.100 | 5.250 | 0.0010 |",
        "| my_bench | org/bench:test | 50 | 0.6000 | n/a | n/a | n/a | n/a | n/a | n/a |",
    ]
    assert table_after(text, "Set | Subset") == [
        "| Set | Subset | Pairs | Accuracy |",
        "| --- | --- | --: | --: |",
        "| eval | helpful-base | 600 | 0.8000 |",
    ]


def test_the_interval_is_shown_where_it_is_known() -> None:
    metrics = {"accuracy": 0.5, "accuracy_ci_low": 0.4, "accuracy_ci_high": 0.6}
    sets = [{"name": "eval", "source": "s", "num_pairs": 9, "metrics": metrics}]
    assert "| 0.5000 [0.400, 0.600] |" in render_model_card(card(eval_sets=sets))


def test_subsets_have_an_interval_where_it_is_known() -> None:
    metrics = {"accuracy": 0.5, "a_accuracy": 0.25, "a_num_pairs": 1200, "b_accuracy": 1.0, "b_num_pairs": 4}
    metrics |= {"a_accuracy_ci_low": 0.2, "a_accuracy_ci_high": 0.3, "b_accuracy_ci_low": math.nan}
    sets = [{"name": "eval", "source": "s", "num_pairs": 1204, "metrics": metrics}]
    rows = table_after(render_model_card(card(eval_sets=sets)), "Set | Subset")[2:]
    assert rows == ["| eval | a | 1,200 | 0.2500 [0.200, 0.300] |", "| eval | b | 4 | 1.0000 |"]


def test_calibration_and_length_have_a_table_of_the_columns_that_there_are() -> None:
    metrics = {"accuracy": 0.5, "ece": 0.0312, "brier": 0.2, "temperature": 1.25, "pick_longest": 0.55}
    sets = [
        {"name": "eval", "source": "s", "num_pairs": 1000, "metrics": metrics},
        {"name": "other", "source": "s", "num_pairs": 9, "metrics": {"accuracy": 1.0, "ece": 0.4}},
    ]
    text = render_model_card(card(eval_sets=sets))
    assert table_after(text, "Set | Pairs | ECE") == [
        "| Set | Pairs | ECE | Brier | Temperature | Pick longest |",
        "| --- | --: | --: | --: | --: | --: |",
        "| eval | 1,000 | 0.031 | 0.200 | 1.250 | 0.550 |",
        "| other | 9 | 0.400 | n/a | n/a | n/a |",
    ]
    assert "* Temperature: the rewards divided by it fit" in text
    assert "* Length correlation" not in text
    plain = [{"name": "eval", "source": "s", "num_pairs": 2, "metrics": {"accuracy": 0.5}}]
    assert "| ECE |" not in render_model_card(card(eval_sets=plain))


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_sanity_findings_are_listed_with_severity_kind_and_set() -> None:
    found = [
        {"kind": "below_chance", "severity": "serious", "eval_set": "eval", "sentence": "accuracy 0.2 | <b>bad</b>"},
        {"kind": "drift", "severity": "notice", "eval_set": None, "sentence": "it moved"},
    ]
    listed = section(render_model_card(card(findings=found)), "Sanity checks")
    assert [line for line in listed.splitlines() if line.startswith("*")] == [
        "* **Serious** (below chance, eval): accuracy 0.2 \\| &lt;b&gt;bad&lt;/b&gt;.",
        "* **Notice** (drift): it moved.",
    ]
    assert "Nothing was found. Looked at: the loss before" in section(render_model_card(card()), "Sanity checks")
    assert "Sanity checks" not in headings(render_model_card(card(findings=None)))


def sets_named(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "source": "s", "num_pairs": 2, "metrics": {}, **more} for name in names]


def test_limits_name_the_benchmarks_that_were_not_run_and_what_nothing_known_tests() -> None:
    none = section(render_model_card(card(eval_sets=sets_named("eval", "mine"))), "Limits")
    assert (
        "* Benchmarks that were not run: RewardBench, RewardBench 2, RM-Bench, JudgeBench, LLMBar, HHH alignment, PPE, "
        "M-RewardBench."
    ) in none
    assert (
        "* None of the sets is a known benchmark of instruction following, safety, mathematics or reasoning, code, "
        "factual correctness or languages other than English."
    ) in none
    some = section(render_model_card(card(eval_sets=sets_named("eval", "reward_bench_2", "RM-Bench"))), "Limits")
    assert "not run: RewardBench, JudgeBench, LLMBar, HHH alignment, PPE, M-RewardBench." in some
    assert "known benchmark of languages other than English." in some
    by_hub = section(render_model_card(card(eval_sets=sets_named("x", hub_id="ScalerLab/JudgeBench"))), "Limits")
    assert "not run: RewardBench, RewardBench 2, RM-Bench, LLMBar," in by_hub
    assert "known benchmark of instruction following, safety or languages other than English." in by_hub
    every = ("rewardbench", "rewardbench2", "rm_bench", "judge_bench", "llmbar", "hhh", "ppe", "m_reward_bench")
    all_of_them = section(render_model_card(card(eval_sets=sets_named(*every))), "Limits")
    assert "not run" not in all_of_them
    assert "known benchmark" not in all_of_them


def test_training_tables() -> None:
    text = render_model_card(card(adapter=LORA, num_trainable_parameters=250))
    rows = table_after(text, "Setting")
    for row in (
        "| Parameters | 1,000, 250 trained (25.00%), adapter: lora of rank 8 |",
        "| Steps | 100 of 100 |",
        "| Epochs | 1.5 |",
        "| Loss | bradley_terry, use_margin false |",
        "| Optimizer | adamw, lr 1e-05 |",
        "| Schedule | linear |",
        "| Precision | bf16; weights saved as bfloat16 |",
        "| Training time | 1 h 2 min |",
    ):
        assert row in rows
    assert table_after(text, "Rows and tokens") == [
        "| Rows and tokens | train | eval |",
        "| --- | --: | --: |",
        "| Rows read | 6,001 |  |",
        "| Pairs kept | 6,000 | 1,000 |",
    ]


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 100])
def test_evaluations_are_thinned_evenly_with_both_ends(count: int) -> None:
    history = [{"step": 10 * i, "kind": "eval", "eval_accuracy": 0.5} for i in range(count)]
    history += [{"step": 1, "kind": "train"}]
    rows = table_after(render_model_card(card(history=history)), "Evaluated after step")[2:]
    steps = [int(row.split("|")[1].replace(",", "")) for row in rows]
    assert len(steps) == len(set(steps)) == min(count, 12)
    assert (steps[0], steps[-1]) == (0, 10 * (count - 1))
    assert rows[0] == "| 0 | 0.5000 | n/a | n/a |"


def test_command_and_config_are_exact() -> None:
    text = render_model_card(card())
    assert code_block(text, "bash") == "rm-train 'name=my run'\n"
    assert code_block(text, "yaml") == "seed: 3\n"
    assert code_block(render_model_card(card(command="rm-train a=b")), "bash") == "rm-train a=b\n"


@pytest.mark.parametrize("in_sweep", [False, True])
def test_the_card_says_how_to_repeat_the_run(in_sweep: bool) -> None:
    text = render_model_card(card(in_sweep=in_sweep))

    assert "repeats the run: `rm-train --config-dir DIRECTORY --config-name config`." in text
    assert ("It started several runs, of which this is one." in text) is in_sweep


def test_environment_and_reload_check() -> None:
    text = render_model_card(card())
    assert table_after(text, "What")[2:] == ["| torch | 2.13.0 |", "| gpus | A, B |"]
    assert "16 answers were scored again" in text
    how = "trained in bf16, saved as bfloat16; more than 0.035 would have failed the run"
    assert f"the rewards of the run: 0.0012 ({how})." in text
    assert "were not compared" in render_model_card(card(reload_difference=None))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["whole", "adapter"])
@pytest.mark.parametrize("text_as", ["chat", "raw"])
def test_the_snippet_is_python(adapter: dict[str, Any] | None, text_as: str) -> None:
    text = render_model_card(card(adapter=adapter, text_as=text_as, eos_token="'\"``` \\"))
    snippet = code_block(text, "python")
    compile(snippet, "README.md", "exec")
    loader = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
    assert f"{loader}.from_pretrained(path, num_labels=1)" in snippet
    assert ("apply_chat_template" in snippet) == (text_as == "chat")
    assert ("add_special_tokens=False" in snippet) == (text_as == "raw")


def test_an_adapter_is_a_peft_model() -> None:
    text = render_model_card(card(adapter=LORA))
    assert ModelCard(text).data.library_name == "peft"
    assert "Its LoRA adapter and reward head were trained" in text
    assert "arXiv:2106.09685" in text
    assert "arXiv:2106.09685" not in render_model_card(card())


def test_no_absolute_path_outside_command_and_config() -> None:
    sets = [{"name": "eval", "source": "/home/someone/eval.jsonl", "num_pairs": 2, "metrics": {}}]
    text = render_model_card(
        card(
            base_model="/home/someone/models/base",
            base_model_is_local=True,
            datasets=["/home/someone/data"],
            train_source="/home/someone/a.jsonl, ~/b.jsonl and file:///home/someone/c.jsonl",
            eval_sets=sets,
            environment={"python": "/home/someone/bin/python", "cwd": r"C:\Users\someone\x"},
        )
    )
    assert "someone" not in text
    assert "a.jsonl, b.jsonl and c.jsonl" in text
    assert "the local model `base`" in text
    data = ModelCard(text).data
    assert data.base_model is None
    assert data.datasets is None


def test_a_base_model_that_is_no_hub_id_is_not_linked() -> None:
    for name in ("/models/base", "../base", "a/b/c", "x](y)", "a b"):
        text = render_model_card(card(base_model=name))
        assert ModelCard(text).data.base_model is None
        assert "https://huggingface.co/" not in text
    text = render_model_card(card(base_model=None))
    assert "trained from random weights on" in text


def test_data_section_says_what_was_read_mixed_and_found() -> None:
    counts: dict[str, dict[str, Any]] = {
        "train": {
            "source": "s", "rows_read": 6001, "kept": 6000, "skipped": {"identical_answers": 1},
            "truncated_prompts": 12, "truncated_chosen": 3, "truncated_rejected": 4, "dropped_overlength": 0,
            "mixture": {
                "hh": {"source": "/data/private/hh.jsonl", "weight": 3.0, "available": 900, "used": 4500, "share": 0.75}
            },
        },
        "eval": {"rows_read": 1000, "kept": 1000, "truncated_prompts": 0, "truncated_chosen": 0},
    }  # fmt: skip
    findings = [
        {"kind": "duplicates", "split": "train", "severity": "notice", "count": 60, "share": 0.01, "dropped": 59,
         "meaning": "Counted several times.", "rows": ["x.jsonl line 7"]},
        {"kind": "prompt_leak", "split": "train", "severity": "serious", "count": 2, "share": 0.00033, "other": "eval",
         "meaning": "A prompt of both."},
    ]  # fmt: skip
    text = render_model_card(card(data_counts=counts, data_audit={"findings": findings}))

    assert table_after(text, "Rows and tokens") == [
        "| Rows and tokens | train | eval |",
        "| --- | --: | --: |",
        "| Rows read | 6,001 | 1,000 |",
        "| Pairs kept | 6,000 | 1,000 |",
        "| Rows skipped | 1 |  |",
        "| Prompts cut | 12 | 0 |",
        "| Answers cut | 7 | 0 |",
    ]
    assert table_after(text, "Part")[2:] == ["| hh | hh.jsonl | 3 | 900 | 4,500 | 75.0% |"]
    counts["train"]["mixture"]["hh"]["seen"] = {"pairs": 40, "share": 0.7}
    seen = render_model_card(card(data_counts=counts))
    assert table_after(seen, "Part")[0] == "| Part | Source | Weight | Available | Used | Share | Trained on |"
    assert table_after(seen, "Part")[2:] == ["| hh | hh.jsonl | 3 | 900 | 4,500 | 75.0% | 70.0% |"]
    assert table_after(text, "Finding")[2:] == [
        "| prompt leak | serious | train and eval | 2 | <0.1% | 0 |".replace("<", "&lt;"),
        "| duplicates | notice | train | 60 | 1.0% | 59 |",
    ]
    assert "* prompt leak: A prompt of both.\n* duplicates: Counted several times." in text
    assert "private" not in text
    assert "line 7" not in text, "rows of the data have no place in a card that may be published"


def test_data_section_without_findings_and_without_an_audit() -> None:
    said = "The audit of the data found nothing to report."
    assert said in render_model_card(card(data_audit={"findings": [], "statistics": {}}))
    assert said not in render_model_card(card(data_audit=None))
    assert "## Data" not in render_model_card(card(data_counts={}))


@pytest.mark.parametrize("hostile", [HOSTILE, "````\n</details>\r# x", "\u202e\x00\x1b[31m\ud800", "", "a\\|<b>"])
def test_what_users_type_cannot_break_out(hostile: str, tmp_path: Path) -> None:
    sets = [
        {
            "name": hostile,
            "source": hostile,
            "num_pairs": 7,
            "metrics": {"accuracy": 0.5, f"{hostile}_accuracy": 0.1, f"{hostile}_num_pairs": 3},
        }
    ]
    inputs = card(eval_sets=sets)
    for field in dataclasses.fields(inputs):
        if isinstance(getattr(inputs, field.name), str):
            setattr(inputs, field.name, hostile)
    for name in ("loss", "optimizer", "scheduler", "environment"):
        setattr(inputs, name, {"name": hostile, hostile: hostile})
    part = {"source": hostile, "weight": 1.0, "available": 3, "used": 2, "share": 1.0}
    inputs.data_counts = {
        "train": {"kept": 1, hostile: 1, "skipped": {hostile: 1}, "mixture": {hostile: part}},
        hostile: {"kept": 2},
    }
    finding = dict.fromkeys(("kind", "split", "severity", "meaning", "other"), hostile)
    inputs.data_audit = {"findings": [{**finding, "count": 1, "share": 0.5, "rows": [hostile], "examples": [hostile]}]}
    inputs.findings = [dict.fromkeys(("kind", "severity", "eval_set", "sentence"), hostile)]
    inputs.tags = [hostile]
    inputs.command = ["rm-train", hostile]
    write_model_card(tmp_path, inputs)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")

    data = ModelCard(text).data
    assert [result.metric_value for result in data.eval_results or []] == [0.5]
    assert headings(text)[1:] == SECTIONS
    seen = tokens(text)
    raw_html = {token.content.strip() for token in seen if token.type in ("html_block", "html_inline")}
    assert raw_html <= {"<details><summary>The whole config</summary>", "</details>", "<code>", "</code>"}
    links = {str(token.attrs["href"]) for token in seen if token.type == "link_open"}
    assert not links, "a hostile base model or W&B address became a link"
    assert not [token for token in seen if token.type == "image"]
    assert len([token for token in seen if token.type == "fence"]) == 4
    for row in re.findall(r"^\|.*\|$", text.split("## Exact command")[0], re.MULTILINE):
        assert "<script" not in row
    assert "\x00" not in text.split("## Exact command")[0]


def test_hostile_config_stays_in_its_fence() -> None:
    config = "a: '```'\n`````\n</details>\n<script>\n---\n"
    text = render_model_card(card(config_yaml=config))
    assert code_block(text, "yaml") == config
    assert headings(text) == ["my_run", *SECTIONS]


def test_cells_keep_pipes_and_line_breaks() -> None:
    sets = [{"name": "a|b\nc", "source": "x\\|y", "num_pairs": 1, "metrics": {}}]
    text = render_model_card(card(eval_sets=sets, eos_token="<|end|>"))
    seen = tokens(text)
    cells = [seen[i + 1] for i, token in enumerate(seen) if token.type == "td_open"]
    shown = ["".join(child.content for child in cell.children or ()) for cell in cells]
    assert shown[:4] == ["a|b c", "x\\|y", "1", "n/a"]
    assert any("reward read at <code><|end|></code>" in cell for cell in shown)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc", "", None])
def test_only_web_addresses_are_linked(url: str | None) -> None:
    assert "wandb-github-badge" not in render_model_card(card(wandb_url=url))


def test_wandb_badge() -> None:
    assert "(https://wandb.ai/a/b/runs/c)" in render_model_card(card())
    hostile = render_model_card(card(wandb_url="https://wandb.ai/a) <script>\n[x](y"))
    assert "(https://wandb.ai/a%29%20%3Cscript%3E%0A%5Bx%5D%28y)" in hostile


def test_write_copies_plots_and_refers_to_them_relatively(tmp_path: Path) -> None:
    source = tmp_path / "run" / "plots"
    source.mkdir(parents=True)
    (source / "training.png").write_bytes(b"picture")
    target = tmp_path / "final"
    target.mkdir()
    write_model_card(target, card(plots=[source / "training.png", source / "gone.png"]))
    text = (target / "README.md").read_text(encoding="utf-8")
    assert "![Loss and accuracy over the steps](plots/training.png)" in text
    assert "gone" not in text
    assert (target / "plots" / "training.png").read_bytes() == b"picture"
    # Again from where they already are: a card is written more than once.
    write_model_card(target, card(plots=[target / "plots" / "training.png"]))
    assert (target / "plots" / "training.png").read_bytes() == b"picture"


def test_the_snippet_runs_and_prints_two_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "<bos>{% for m in messages %}{{ m['content'] }} {% endfor %}<eos>"
    config = transformers.LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    for text_as in ("chat", "raw"):
        inputs = card(text_as=text_as, bos_token="<bos>", eos_token="<eos>")
        exec(code_block(render_model_card(inputs), "python"), {})
        assert re.fullmatch(r"chosen -?\d\S*\nrejected -?\d\S*\n", capsys.readouterr().out)


def test_what_else_rewards_depend_on_and_their_scale() -> None:
    found = {"small_batches_padded_right": 2e-7, "one_batch_padded_right": 3e-7, "one_batch_padded_left": 0.4}
    scale = {"mean": 1.5, "std": 2.0, "num_rewards": 2000, "source": "eval (/home/someone/x.parquet)"}
    text = render_model_card(card(batch_invariance={**found, "alone_bf16": None}, reward_normalization=scale))
    assert table_after(text, "Scored")[2:] == [
        "| 3 at a time, padded on the right | 2.0e-07 |",
        "| all in one batch, padded on the right | 3.0e-07 |",
        "| all in one batch, padded on the left | 4.0e-01 |",
        "| alone, in bfloat16 arithmetic | not measured |",
    ]
    assert "**Pad on the right**" in text
    assert "Over the 2,000 rewards of eval (x.parquet): mean 1.5000, standard deviation 2.0000;" in text
    assert "The head was changed" not in text
    with_bias = render_model_card(card(reward_normalization={**scale, "folded": {"mean": 1.5, "std": 2.0}}))
    assert (
        "rewards were lowered by 1.5 and divided by 2 (`checkpoint.fold_normalization=true`). Loss, margins"
        in with_bias
    )
    without = render_model_card(card(reward_normalization={**scale, "folded": {"mean": 0.0, "std": 2.0}}))
    assert "rewards were divided by 2 (`checkpoint.fold_normalization=true`). The mean stays" in without
    neither = render_model_card(card(batch_invariance={**found, "one_batch_padded_left": 1e-7}))
    assert "**Pad on the right**" not in neither
    assert "## Reward scale" not in neither
