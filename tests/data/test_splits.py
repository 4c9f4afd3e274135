"""Which pairs are trained on and which are evaluated: files, shares of the prompts, the sandbox, and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.config.data_schema import (
    Audit,
    ColumnsConfig,
    DataConfig,
    EvalSetConfig,
    MixturePartConfig,
    SandboxConfig,
    Ties,
)
from rm_experiments.data.cache import DataCache
from rm_experiments.data.pairs import prompt_id
from rm_experiments.data.sandbox import generate
from rm_experiments.data.splits import Splits, load_splits
from rm_experiments.errors import DataError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    """90 rows: 30 prompts, each with one, three or five answers, as text and as turns."""
    rows: list[dict[str, Any]] = []
    for prompt in range(30):
        for answer in range((1, 3, 5)[prompt % 3]):
            text: Any = f"question {prompt}"
            if answer % 2:
                text = [{"role": "user", "content": text}]
            rows.append({"id": f"{prompt}.{answer}", "prompt": text, "chosen": f"yes {answer}", "rejected": "no"})
    rows.sort(key=lambda row: str(row["id"])[::-1])
    return write(tmp_path / "train.jsonl", rows)


def ids(splits: Splits, name: str | None = None) -> list[str]:
    return [pair.id for pair in (splits.train if name is None else splits.evaluation[name]).pairs]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_split_off_evaluation_shares_no_prompt_and_loses_no_row(train: str, fraction: float, seed: int) -> None:
    splits = load_splits(DataConfig(train=train, eval_fraction=fraction), seed, evaluates=True)
    main = splits.evaluation["eval"]
    trained, evaluated = ({prompt_id(pair) for pair in part.pairs} for part in (splits.train, main))
    assert not trained & evaluated
    assert len(evaluated) == max(1, int(fraction * 30))
    assert len(trained) == 30 - len(evaluated)
    assert sorted(ids(splits) + ids(splits, "eval")) == sorted(ids(load_splits(DataConfig(train=train), 0, False)))
    assert splits.train.counts["split_off_for_evaluation"] == len(main.pairs)
    assert main.source == f"{fraction:.0%} of the prompts of {train}"


def test_split_off_depends_on_the_seed_only(train: str, tmp_path: Path) -> None:
    def held_out(source: str, seed: int) -> list[str]:
        return ids(load_splits(DataConfig(train=source, eval_fraction=0.3), seed, evaluates=True), "eval")

    lines = Path(train).read_text(encoding="utf-8").splitlines()
    other_order = tmp_path / "other.jsonl"
    other_order.write_text("\n".join(sorted(lines)), encoding="utf-8")
    assert held_out(train, 0) == held_out(train, 0)
    assert sorted(held_out(train, 0)) == sorted(held_out(str(other_order), 0))
    assert held_out(train, 0) != held_out(train, 1)


def test_split_off_keeps_the_order_of_the_file(train: str) -> None:
    everything = ids(load_splits(DataConfig(train=train), 0, evaluates=False))
    splits = load_splits(DataConfig(train=train, eval_fraction=0.3), 0, evaluates=True)
    for part in (ids(splits), ids(splits, "eval")):
        assert part == [one for one in everything if one in part]


def test_rows_without_a_prompt_are_prompts_of_their_own(tmp_path: Path) -> None:
    rows = [{"prompt": "", "chosen": f"a {number}", "rejected": f"b {number}"} for number in range(20)]
    source = write(tmp_path / "train.jsonl", rows)
    splits = load_splits(DataConfig(train=source, eval_fraction=0.25), 0, evaluates=True)
    assert (len(splits.train.pairs), len(splits.evaluation["eval"].pairs)) == (15, 5)


def test_prompts_that_the_audit_calls_one_are_split_off_together(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(12):
        text = f"question {number}?"
        system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        for at, prompt in enumerate((text, text.upper(), system)):
            rows.append({"id": f"{number}.{at}", "prompt": prompt, "chosen": f"yes {at}", "rejected": "no"})
    source = write(tmp_path / "train.jsonl", rows)
    for seed in range(4):
        splits = load_splits(DataConfig(train=source, eval_fraction=0.25, audit=Audit.error), seed, evaluates=True)
        numbers = [one.partition(".")[0] for one in ids(splits, "eval")]
        assert len(numbers) == 9
        assert all(numbers.count(one) == 3 for one in numbers)


def test_single_prompt_cannot_be_split(tmp_path: Path) -> None:
    source = write(tmp_path / "train.jsonl", [{"prompt": "q", "chosen": f"{n}", "rejected": "b"} for n in range(9)])
    message = "data.train: 1 prompt cannot be split into training and evaluation; add data.eval=FILE, or eval=none"
    with pytest.raises(DataError, match=message):
        load_splits(DataConfig(train=source), 0, evaluates=True)


def test_run_that_does_not_evaluate_trains_on_everything(train: str) -> None:
    splits = load_splits(DataConfig(train=train), 0, evaluates=False)
    assert len(splits.train.pairs) == 90
    assert splits.evaluation == {}


def test_evaluation_file_is_read_and_nothing_is_split_off(train: str, tmp_path: Path) -> None:
    source = write(
        tmp_path / "eval.jsonl", [{"id": f"e{n}", "prompt": "q", "chosen": "a", "rejected": "b"} for n in range(4)]
    )
    splits = load_splits(DataConfig(train=train, eval=source), 0, evaluates=True)
    assert len(splits.train.pairs) == 90
    assert ids(splits, "eval") == ["e0", "e1", "e2", "e3"]
    assert (splits.evaluation["eval"].source, splits.evaluation["eval"].key) == (source, "data.eval")


def test_evaluation_limit_takes_the_first_pairs_of_each_set(train: str, tmp_path: Path) -> None:
    rows = [{"id": f"e{n}", "prompt": "q", "chosen": "a", "rejected": "b"} for n in range(5)]
    source = write(tmp_path / "eval.jsonl", rows)
    sets = {"more": EvalSetConfig(source=source)}
    config = DataConfig(train=train, eval=source, eval_sets=sets, max_eval_pairs=2)
    splits = load_splits(config, 0, evaluates=True)
    assert ids(splits, "eval") == ids(splits, "more") == ["e0", "e1"]
    assert [one.counts["beyond_max_eval_pairs"] for one in splits.evaluation.values()] == [3, 3]
    whole = load_splits(DataConfig(train=train, eval=source, max_eval_pairs=5), 0, evaluates=True)
    assert "beyond_max_eval_pairs" not in whole.evaluation["eval"].counts


def test_evaluation_limit_gives_no_prompt_back_to_training(train: str) -> None:
    whole = load_splits(DataConfig(train=train, eval_fraction=0.5), 0, evaluates=True)
    limited = load_splits(DataConfig(train=train, eval_fraction=0.5, max_eval_pairs=3), 0, evaluates=True)
    assert ids(limited) == ids(whole)
    assert ids(limited, "eval") == ids(whole, "eval")[:3]


def test_training_limit_draws_from_the_seed_and_keeps_the_order(train: str) -> None:
    def limited(seed: int, limit: int) -> Splits:
        return load_splits(DataConfig(train=train, max_train_pairs=limit), seed, evaluates=False)

    everything = ids(load_splits(DataConfig(train=train), 0, evaluates=False))
    some = ids(limited(0, 20))
    assert len(set(some)) == 20
    assert some == [one for one in everything if one in some]
    assert some == ids(limited(0, 20))
    assert some != ids(limited(1, 20))
    assert some != everything[:20]
    assert limited(0, 20).train.counts["beyond_max_train_pairs"] == 70


@pytest.mark.parametrize("limit", [90, 1000])
def test_training_limit_beyond_the_data_changes_nothing(train: str, limit: int) -> None:
    splits = load_splits(DataConfig(train=train, max_train_pairs=limit), 0, evaluates=False)
    assert len(splits.train.pairs) == 90
    assert "beyond_max_train_pairs" not in splits.train.counts


def test_training_limit_leaves_the_evaluation_as_it_is(train: str) -> None:
    whole = load_splits(DataConfig(train=train, eval_fraction=0.3), 0, evaluates=True)
    limited = load_splits(DataConfig(train=train, eval_fraction=0.3, max_train_pairs=5), 0, evaluates=True)
    assert len(limited.train.pairs) == 5
    assert ids(limited, "eval") == ids(whole, "eval")
    assert set(ids(limited)) < set(ids(whole))


def test_named_sets_have_sources_and_columns_of_their_own(train: str, tmp_path: Path) -> None:
    source = write(tmp_path / "other.jsonl", [{"q": "hi", "good": "a", "bad": "b"}])
    columns = ColumnsConfig(prompt="q", chosen="good", rejected="bad")
    sets = {"other": EvalSetConfig(source=source, columns=columns), "again": EvalSetConfig(source=[train])}
    splits = load_splits(DataConfig(train=train, eval_sets=sets), 0, evaluates=True)
    assert list(splits.evaluation) == ["eval", "other", "again"]
    (pair,) = splits.evaluation["other"].pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("hi", "a", "b")
    assert splits.evaluation["other"].key == "data.eval_sets.other.source"
    assert splits.evaluation["again"].counts["rows_read"] == 90


def test_message_about_a_named_set_names_it(train: str) -> None:
    sets = {"gone": EvalSetConfig(source="nowhere.jsonl")}
    with pytest.raises(DataError, match=r"data\.eval_sets\.gone\.source=nowhere\.jsonl: no such file"):
        load_splits(DataConfig(train=train, eval_sets=sets), 0, evaluates=True)


def test_sandbox_splits_are_the_generated_world() -> None:
    sandbox = SandboxConfig(num_train_pairs=40, num_eval_pairs=20, label_noise=0.1)
    splits = load_splits(DataConfig(sandbox=sandbox), 0, evaluates=True)
    world = generate(sandbox)
    assert splits.train.pairs == world.train
    assert splits.evaluation["eval"].pairs == world.eval
    assert splits.best_achievable_accuracy == world.best_achievable_accuracy
    assert splits.best_achievable_loss == world.best_achievable_loss


def test_loss_that_is_achievable_without_ties_belongs_to_a_set_without_them() -> None:
    sandbox = SandboxConfig(num_train_pairs=40, num_eval_pairs=60, ties=0.4)
    best = generate(sandbox).best_achievable
    kept = load_splits(DataConfig(sandbox=sandbox), 0, evaluates=True)
    dropped = load_splits(DataConfig(sandbox=sandbox, ties=Ties.drop), 0, evaluates=True)
    assert dropped.evaluation["eval"].counts["dropped_ties"] == kept.evaluation["eval"].counts["label_ties"] > 0
    assert (kept.best_achievable_loss, dropped.best_achievable_loss) == (best["loss"], best["loss_without_ties"])
    assert dropped.best_achievable_accuracy == best["accuracy"]


def test_sandbox_does_not_depend_on_the_seed_of_the_run() -> None:
    sandbox = SandboxConfig(num_train_pairs=40, num_eval_pairs=20)
    one, two = (load_splits(DataConfig(sandbox=sandbox), seed, evaluates=True) for seed in (0, 1))
    assert one.train.pairs == two.train.pairs
    assert one.evaluation["eval"].pairs == two.evaluation["eval"].pairs


def test_sandbox_limits_apply_and_what_is_achievable_belongs_to_the_limited_set() -> None:
    sandbox = SandboxConfig(num_train_pairs=40, num_eval_pairs=20)
    splits = load_splits(DataConfig(sandbox=sandbox, max_train_pairs=10, max_eval_pairs=5), 0, evaluates=True)
    world = generate(SandboxConfig(num_train_pairs=40, num_eval_pairs=5))
    assert len(splits.train.pairs) == 10
    assert splits.evaluation["eval"].pairs == world.eval
    assert splits.best_achievable_accuracy == world.best_achievable_accuracy


def test_sandbox_run_that_does_not_evaluate_has_no_bounds() -> None:
    splits = load_splits(DataConfig(sandbox=SandboxConfig(num_train_pairs=8, num_eval_pairs=4)), 0, evaluates=False)
    assert splits.evaluation == {}
    assert splits.best_achievable_accuracy is None
    assert splits.best_achievable_loss is None


def test_shifted_set_of_a_biased_sandbox_is_evaluated_beside_the_main_one() -> None:
    sandbox = SandboxConfig(num_train_pairs=8, num_eval_pairs=12, length_bias=0.3)
    splits = load_splits(DataConfig(sandbox=sandbox), 0, evaluates=True)
    world = generate(sandbox)
    assert list(splits.evaluation) == ["eval", "shifted"]
    assert splits.evaluation["shifted"].pairs == world.shifted
    assert splits.evaluation["shifted"].counts["best_achievable"] == world.shifted_best_achievable


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, str]:
    def rows(name: str, count: int, **more: Any) -> list[dict[str, Any]]:
        return [{"prompt": f"{name} {n}", "chosen": "yes", "rejected": "no", **more} for n in range(count)]

    return {
        "a": write(tmp_path / "a.jsonl", [*rows("a", 29), *rows("a named", 1, subset="mine")]),
        "b": write(tmp_path / "b.jsonl", rows("b", 10, margin=2.0)),
    }


def test_mixture_joins_its_parts_and_names_their_rows(parts: dict[str, str]) -> None:
    mixture = {"a": MixturePartConfig(source=parts["a"]), "b": MixturePartConfig(source=parts["b"], subset="other")}
    train = load_splits(DataConfig(mixture=mixture), 0, evaluates=False).train
    assert [pair.subset for pair in train.pairs] == ["a"] * 29 + ["mine"] + ["other"] * 10
    assert train.counts["rows_read"] == 40
    assert train.counts["has_margins"]
    assert (train.source, train.counts["format"]) == ("a + b", "preference")
    assert train.counts["mixture"]["b"] == {
        "source": parts["b"], "weight": None, "available": 10, "used": 10, "share": 0.25
    }  # fmt: skip


def test_mixture_adds_up_what_its_parts_skipped_and_their_subsets(tmp_path: Path) -> None:
    columns = ColumnsConfig(
        prompt="q", response_a="one", response_b="two", label="best", first_wins=["1"], second_wins=["2"]
    )
    mixture = {}
    for name, labels in (("a", [1, None, 2]), ("b", [None, None, 1])):
        rows = [{"q": f"{name}{n}", "one": "x", "two": "y", "best": label} for n, label in enumerate(labels)]
        rows[-1]["subset"] = "mine"
        mixture[name] = MixturePartConfig(source=write(tmp_path / f"{name}.jsonl", rows), columns=columns)
    counts = load_splits(DataConfig(mixture=mixture), 0, evaluates=False).train.counts
    assert (counts["rows_read"], counts["pairs_read"]) == (6, 3)
    assert sum(counts["skipped"].values()) == 3
    assert counts["skipped"] == {
        reason: sum(one["skipped"].get(reason, 0) for one in counts["parts"].values()) for reason in counts["skipped"]
    }
    assert counts["subsets"] == {"a": 1, "mine": 2}


def test_mixture_shares_follow_the_weights_and_are_what_the_report_says(parts: dict[str, str]) -> None:
    mixture = {
        "a": MixturePartConfig(source=parts["a"], weight=1), "b": MixturePartConfig(source=parts["b"], weight=3)
    }  # fmt: skip
    train = load_splits(DataConfig(mixture=mixture), 0, evaluates=False).train
    from_b = [pair for pair in train.pairs if pair.prompt.startswith("b")]  # type: ignore[union-attr]
    assert (len(train.pairs), len(from_b)) == (40, 30)
    report = train.counts["mixture"]
    assert [(one["available"], one["used"], one["share"]) for one in report.values()] == [
        (30, 10, 0.25), (10, 30, 0.75),
    ]  # fmt: skip


def test_limit_of_a_mixture_comes_last_and_its_shares_are_those_of_what_is_left(parts: dict[str, str]) -> None:
    mixture = {name: MixturePartConfig(source=source) for name, source in parts.items()}
    train = load_splits(DataConfig(mixture=mixture, max_train_pairs=8), 0, evaluates=False).train
    used = [sum(pair.prompt.startswith(name) for pair in train.pairs) for name in "ab"]  # type: ignore[union-attr]
    assert sum(used) == 8
    assert [one["used"] for one in train.counts["mixture"].values()] == used
    assert train.counts["beyond_max_train_pairs"] == 32


def test_mixture_is_split_by_prompt_over_all_parts(parts: dict[str, str]) -> None:
    mixture = {name: MixturePartConfig(source=source) for name, source in parts.items()}
    splits = load_splits(DataConfig(mixture=mixture, eval_fraction=0.5), 0, evaluates=True)
    assert (len(splits.train.rows), len(splits.evaluation["eval"].rows)) == (20, 20)
    assert sum(one["used"] for one in splits.train.counts["mixture"].values()) == 20


def test_ties_are_kept_or_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"q": "x", "one": f"a{n}", "two": "b", "best": label} for n, label in enumerate("12t1tt")]
    columns = ColumnsConfig(
        prompt="q", response_a="one", response_b="two", label="best", first_wins=["1"], second_wins=["2"], tie=["t"]
    )
    source = write(tmp_path / "labels.jsonl", rows)
    kept = load_splits(DataConfig(train=source, columns=columns), 0, evaluates=False).train
    assert [pair.label for pair in kept.pairs] == [1, 1, 0.5, 1, 0.5, 0.5]
    assert kept.counts["label_ties"] == 3
    dropped = load_splits(DataConfig(train=source, columns=columns, ties=Ties.drop), 0, evaluates=False).train
    assert [pair.chosen for pair in dropped.pairs] == ["a0", "b", "a3"]
    assert dropped.counts["dropped_ties"] == 3


def test_audit_drops_training_pairs_when_asked_and_never_evaluation_pairs(tmp_path: Path) -> None:
    good = [{"prompt": f"question {n}", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)]
    bad = [
        good[0],
        {"prompt": "same", "chosen": "x", "rejected": "x"},
        {"prompt": "leak", "chosen": "a", "rejected": "b"},
    ]
    train = write(tmp_path / "train.jsonl", [*good, *bad])
    held = write(tmp_path / "eval.jsonl", [{"prompt": "Leak", "chosen": "c", "rejected": "c"}] * 2)
    report = load_splits(DataConfig(train=train, eval=held), 0, evaluates=True)
    assert len(report.train.rows) == 8
    fixed = load_splits(DataConfig(train=train, eval=held, audit=Audit.fix), 0, evaluates=True)
    assert [pair.prompt for pair in fixed.train.pairs] == [row["prompt"] for row in good]
    assert fixed.train.counts["dropped_by_audit"] == {"identical_sides": 1, "leaked_prompts": 1, "duplicates": 1}
    assert len(fixed.evaluation["eval"].rows) == 2
    with pytest.raises(DataError, match=r"data\.audit=error"):
        load_splits(DataConfig(train=train, eval=held, audit=Audit.error), 0, evaluates=True)


def test_second_reading_comes_from_the_cache_and_is_the_same(train: str, tmp_path: Path) -> None:
    first, second = DataCache(str(tmp_path / "cache")), DataCache(str(tmp_path / "cache"))
    one = load_splits(DataConfig(train=train), 0, evaluates=True, cache=first)
    two = load_splits(DataConfig(train=train), 0, evaluates=True, cache=second)
    assert (first.hits, second.hits) == ([], ["pairs"])
    assert one.train.pairs == two.train.pairs
    assert one.train.counts == two.train.counts
    Path(train).write_text(Path(train).read_text(encoding="utf-8").replace("yes 0", "yes yes"), encoding="utf-8")
    third = DataCache(str(tmp_path / "cache"))
    changed = load_splits(DataConfig(train=train), 0, evaluates=True, cache=third)
    assert third.hits == []
    assert "yes yes" in [pair.chosen for pair in changed.train.pairs]


def test_part_without_margins_lacks_them_beside_one_that_has_some(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    parts = {
        "some": write(tmp_path / "some.jsonl", [row | {"margin": 2}, row | {"margin": None}]),
        "none": write(tmp_path / "none.jsonl", [row, row, row]),
    }
    mixture = {name: MixturePartConfig(source=source) for name, source in parts.items()}
    counts = load_splits(DataConfig(mixture=mixture), 0, evaluates=False).train.counts
    assert (counts["has_margins"], counts["missing_margins"]) == (True, 4)
    only = load_splits(DataConfig(mixture={"none": mixture["none"]}), 0, evaluates=False).train.counts
    assert (only["has_margins"], only["missing_margins"]) == (False, 0)
