"""Comparing runs that were written by hand: what is found, grouped, matched, refused, and what compare.json holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rm_experiments import compare
from rm_experiments.config.compare_schema import CompareConfig
from rm_experiments.errors import CheckpointError, ConfigError, DataError
from rm_experiments.evaluation.comparing import METRICS
from rm_experiments.evaluation.metrics import record_metrics
from rm_experiments.evaluation.records import Records, write_records
from rm_experiments.evaluation.statistics import holm
from rm_experiments.runner.compare import compare_runs
from rm_experiments.runner.finished import FinishedRun, differing, find_runs, flattened

Evaluated = Callable[..., Records]
WriteRun = Callable[..., Path]
FINISHED = {"status": "finished", "seconds": 1.5}


def margins(seed: int, quality: float = 1.0, number: int = 40) -> list[float]:
    generator = np.random.default_rng(seed)
    return (quality + generator.normal(size=number)).tolist()


def settings(lr: float, seed: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": f"run{seed}", "seed": seed, "optimizer": {"name": "adamw", "lr": lr}, **more}


class World:
    """A folder of runs."""

    def __init__(self, root: Path, evaluated: Evaluated, write_run: WriteRun, data: Path) -> None:
        self.root, self.evaluated, self._write, self.data = root, evaluated, write_run, data

    def run(self, name: str, lr: float = 0.1, seed: int = 1, quality: float = 1.0, **more: Any) -> Path:
        """A finished run with one evaluation of all 40 pairs."""
        arguments: dict[str, Any] = {
            "evaluations": {10: {"eval": self.evaluated(margins(seed + int(100 * lr), quality))}},
            "config": settings(lr, seed, data={"eval": str(self.data)}), "summary": FINISHED, "final": 10,
        } | more  # fmt: skip
        return self._write(self.root / name, **arguments)

    def compare(self, *directories: Path | str, **more: Any) -> dict[str, Any]:
        """The content of compare.json."""
        chosen = {"num_resamples": 1000, "html": False, "output_dir": str(self.root / "out"), **more}
        config = CompareConfig(directories=[str(one) for one in directories], **chosen)
        result = compare(config)
        assert result.directory == self.root / "out"
        written: dict[str, Any] = json.loads((result.directory / "compare.json").read_text(encoding="utf-8"))
        assert written == result.comparison
        return written

    def refuses(self, *directories: Path | str, **more: Any) -> str:
        """The message; nothing is written."""
        before = sorted(self.root.rglob("*"))
        with pytest.raises((ConfigError, CheckpointError, DataError)) as caught:
            self.compare(*directories, **more)
        assert sorted(self.root.rglob("*")) == before
        message = str(caught.value)
        assert "\n" not in message
        return message.replace(str(self.root), "ROOT")


@pytest.fixture
def world(tmp_path: Path, preferences: list[dict[str, str]], evaluated: Evaluated, write_run: WriteRun) -> World:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in preferences), encoding="utf-8")
    return World(tmp_path, evaluated, write_run, data)


def labels(found: dict[str, Any], of: str = "runs") -> list[str]:
    return [one["label"] for one in found[of]]


def groups(found: dict[str, Any]) -> list[list[int]]:
    return [one["runs"] for one in found["groups"]]


def test_runs_that_differ_in_their_seed_only_are_one_candidate(world: World) -> None:
    runs = [world.run(f"{lr}_{seed}", lr, seed) for seed in (1, 2) for lr in (0.1, 0.01)]
    found = world.compare(*runs)
    assert found["options"] == ["optimizer.lr", "seed"]
    assert labels(found) == ["lr=0.1 seed=1", "lr=0.01 seed=1", "lr=0.1 seed=2", "lr=0.01 seed=2"]
    assert groups(found) == [[0, 2], [1, 3]]
    assert labels(found, "groups") == ["lr=0.1", "lr=0.01"]
    assert [(one["id"], one["group"], one["seed"], one["options"]) for one in found["runs"]] == [
        (0, 0, 1, {"optimizer.lr": 0.1, "seed": 1}), (1, 1, 1, {"optimizer.lr": 0.01, "seed": 1}),
        (2, 0, 2, {"optimizer.lr": 0.1, "seed": 2}), (3, 1, 2, {"optimizer.lr": 0.01, "seed": 2}),
    ]  # fmt: skip
    assert {one["seeds_counted"] for one in found["comparisons"]} == {True}
    by_seed = [found["runs"][one]["metrics"]["eval"]["accuracy"] for one in (0, 2)]
    of_group = found["groups"][0]["metrics"]["eval"]["accuracy"]
    assert of_group["mean"] == pytest.approx(np.mean(by_seed), rel=1e-12)
    assert of_group["sd"] == pytest.approx(np.std(by_seed, ddof=1), rel=1e-9)

    found = world.compare(*runs, group_by="run")
    assert groups(found) == [[0], [1], [2], [3]]
    assert labels(found, "groups") == labels(found)


def test_what_does_not_change_the_model_is_no_difference(world: World) -> None:
    more = {"tracking": {"mode": "offline"}, "train": {"device": "cuda", "layout": "packed", "max_steps": 5}}
    a = world.run("a", config=settings(0.1, 1, **more))
    more = {"tracking": {"mode": "online"}, "train": {"device": "cpu", "layout": "padded", "max_steps": 5}}
    b = world.run("b", config=settings(0.1, 2, **more))
    found = world.compare(a, b)
    assert found["options"] == ["seed"]
    assert groups(found) == [[0, 1]]
    assert found["groups"][0]["label"] == "all runs"
    assert found["comparisons"] == []
    assert found["notes"][0].endswith("To test them as models of their own, type group_by=run.")


def test_settings_flatten_to_dotted_keys() -> None:
    config = {
        "name": "x", "seed": 1, "data": {"cache_dir": "y", "sandbox": {"ties": 0.5}, "eval_sets": {}},
        "optimizer": {"betas": [0.9, 0.99]}, "hub": {"push": True},
    }  # fmt: skip
    flat = flattened(config)
    assert flat == {"seed": 1, "data.sandbox.ties": 0.5, "data.eval_sets": {}, "optimizer.betas": [0.9, 0.99]}
    other = {**flat, "seed": 2, "data.sandbox.ties": 0.6}
    other.pop("data.eval_sets")
    assert differing([flat, flat]) == []
    assert differing([flat, other]) == ["data.sandbox.ties", "data.eval_sets", "seed"]


def test_runs_of_one_config_and_one_seed_are_models_of_their_own(world: World) -> None:
    a, b, c = (world.run(name, seed=seed, quality=quality) for name, seed, quality in
               (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)))  # fmt: skip
    found = world.compare(a, b, c)
    assert groups(found) == [[0, 2], [1]]
    assert labels(found) == [f"seed=1 ({a})", f"seed=1 ({b})", "seed=2"]
    assert found["groups"][1]["label"] == f"seed=1 ({b})"


def test_labels_are_short_and_distinct(world: World) -> None:
    def named(path: str, model: str, **more: Any) -> Path:
        config = settings(0.1, 1, model={"name": model}, loss={"name": model}, **more)
        return world.run(path, config=config)

    runs = [named("one", "a"), named("two", "b")]
    # Two keys end alike.
    assert labels(world.compare(*runs)) == ["model.name=a loss.name=a", "model.name=b loss.name=b"]
    long = [named("three", "x" * 60), named("four", "y" * 60)]
    assert labels(world.compare(*long)) == ["three", "four"]
    same = [world.run("p/run"), world.run("q/run")]
    assert labels(world.compare(*same)) == [str(one) for one in same]
    kinds = [named(f"kind{at}", "a", value=value) for at, value in enumerate((True, None, [1, 2], 1e-7, "text"))]
    assert labels(world.compare(*kinds)) == ["value=true", "value=null", "value=[1, 2]", "value=1e-07", "value=text"]


def test_a_run_without_an_evaluation_is_left_out_and_said(world: World) -> None:
    runs = [world.run("good", 0.1), world.run("better", 0.2)]
    failed = world.run("failed", evaluations={}, summary={"status": "failed", "error": "out of memory"})
    running = world.run("running", evaluations={}, summary=None)
    stopped = world.run("stopped", 0.3, summary={"status": "interrupted"})
    found = world.compare(*runs, failed, running, stopped)
    assert [one["path"] for one in found["runs"]] == [str(one) for one in (*runs, stopped)]
    assert [one["status"] for one in found["runs"]] == ["finished", "finished", "interrupted"]
    assert found["notes"][:3] == [
        f"{failed}: left out, failed without an evaluation (out of memory)",
        f"{running}: left out, running without an evaluation",
        f"{stopped}: interrupted; compared by its evaluations so far.",
    ]
    assert world.refuses(failed) == (
        "ROOT/failed: holds no evaluation; evaluate its model with rm-eval checkpoint=ROOT/failed"
    )


def test_a_sweep_is_all_of_its_runs_in_the_order_of_its_jobs(world: World) -> None:
    for job in (10, 9, 0, 1):
        world.run(f"sweep/2026/{job}", lr=0.1 + job)
    world.run("sweep/2026/.hidden", 77.0)
    (world.root / "sweep" / "latest").symlink_to(world.root / "sweep" / "2026")
    found = world.compare(world.root / "sweep")
    assert [Path(one["path"]).name for one in found["runs"]] == ["0", "1", "9", "10"]
    assert [one.path.name for one in find_runs(str(world.root / "sweep" / "2026"))] == ["0", "1", "9", "10"]
    # What is named twice is there once.
    again = world.compare(world.root / "sweep", world.root / "sweep" / "latest", world.root / "sweep" / "2026" / "9")
    assert [one["path"] for one in again["runs"]] == [one["path"] for one in found["runs"]]


def test_checkpoints_of_a_run_are_models_of_their_own(world: World) -> None:
    steps = {step: {"eval": world.evaluated(margins(step, step / 10))} for step in (0, 10, 20)}
    run = world.run("run", evaluations=steps, final=20)
    for step in (10, 20):
        folder = run / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text(json.dumps({"step": step}))
    (run / "checkpoints" / "best").symlink_to("step_00000010")
    found = world.compare(run / "checkpoints" / "best", run / "final", run / "checkpoints" / "step_00000020")
    assert [(one["label"], one["step"], one["path"]) for one in found["runs"]] == [
        ("run step 10", 10, str(run.resolve())), ("run step 20", 20, str(run.resolve()))
    ]  # fmt: skip
    assert groups(found) == [[0], [1]]
    for one, step in zip(found["runs"], (10, 20), strict=True):
        assert one["metrics"]["eval"]["margin"] == pytest.approx(np.mean(margins(step, step / 10)), rel=1e-12)
        # The curve is that of the whole run.
        assert one["curves"]["eval"]["step"] == [0, 10, 20]
    baseline = str(run / "final")
    pairs = world.compare(run / "checkpoints" / "best", run / "final", baseline=baseline)["comparisons"]
    assert {(one["a"], one["b"]) for one in pairs} == {(1, 0)}


def test_models_of_seeds_after_as_many_steps_are_one_candidate(world: World) -> None:
    models = []
    for seed in (1, 2):
        steps = {step: {"eval": world.evaluated(margins(seed + step))} for step in (10, 20)}
        run = world.run(f"run{seed}", 0.1, seed, evaluations=steps, final=20)
        (run / "checkpoints" / "step_00000010").mkdir(parents=True)
        (run / "checkpoints" / "step_00000010" / "MANIFEST.json").write_text(json.dumps({"step": 10}))
        models += [run / "checkpoints" / "step_00000010", run / "final"]
    found = world.compare(*models)
    assert labels(found) == ["seed=1 step 10", "seed=1 step 20", "seed=2 step 10", "seed=2 step 20"]
    assert groups(found) == [[0, 2], [1, 3]]
    assert labels(found, "groups") == ["step 10", "step 20"]
    unknown = [world.run(name, config=None) for name in ("x", "y")]
    assert groups(world.compare(*unknown, models[1])) == [[0], [1], [2]]


def test_the_evaluation_that_counts(world: World) -> None:
    def run(name: str, lr: float, steps: Sequence[int], **more: Any) -> Path:
        return world.run(
            name, lr, evaluations={step: {"eval": world.evaluated(margins(step))} for step in steps}, **more
        )

    def steps(**more: Any) -> list[int]:
        return [one["step"] for one in world.compare(a, b, **more)["runs"]]

    a = run("a", 0.1, (0, 10, 20, 30), final=20, summary={**FINISHED, "best_step": 10})
    b = run("b", 0.2, (0, 10, 25), final=None, summary=FINISHED)
    assert steps() == [20, 25]
    assert steps(at="last") == [30, 25]
    assert steps(at="best") == [10, 25]
    assert steps(at="10") == [10, 10]
    assert world.refuses(a, b, at="20") == "ROOT/b: has no evaluation at step 20, but at 0, 10, 25; try at=last"
    many = run("many", 0.3, range(0, 20, 2), final=7)
    assert world.refuses(many) == (
        "ROOT/many: has no evaluation at step 7, but at 0, 2, 4, 6, ..., 14, 16, 18; try at=last"
    )


def test_rows_are_matched_whatever_their_order(world: World) -> None:
    generator = np.random.default_rng(0)
    order = generator.permutation(40)
    plain, moved = margins(5), margins(6)
    a = world.run("a", 0.1, evaluations={1: {"eval": world.evaluated(plain)}}, final=1)
    b = world.run("b", 0.2, evaluations={1: {"eval": world.evaluated([moved[one] for one in order], order)}}, final=1)
    found = world.compare(a, b)
    rows, shown = found["rows"]["eval"], [one["margins"]["eval"] for one in found["runs"]]
    assert [one["id"] for one in rows] == [str(one) for one in range(40)]
    assert shown[0] == pytest.approx(plain, rel=1e-4)
    assert shown[1] == pytest.approx(moved, rel=1e-4)
    differences = [one for one in found["comparisons"] if one["subset"] is None and one["metric"] == "accuracy"]
    assert [one["difference"] for one in differences] == [
        pytest.approx(np.mean(np.array(moved) > 0) - np.mean(np.array(plain) > 0), rel=1e-9)
    ]


def test_runs_on_other_rows_are_refused_or_compared_on_what_they_share(world: World) -> None:
    a = world.run("a", 0.1)
    b = world.run("b", 0.2, evaluations={10: {"eval": world.evaluated(margins(3, number=30), range(10, 40))}})
    message = (
        "eval: different rows: ROOT/a has 40 pairs, ROOT/b 30, and 30 are the same; evaluate both on one set with "
        "rm-eval, or compare what they share with rows=common"
    )
    assert world.refuses(a, b) == message
    found = world.compare(a, b, rows="common")
    (size,) = found["sets"]
    assert (size["num_pairs"], size["num_prompts"], size["subsets"]) == (30, 15, ["list", "sum"])
    assert {one["num_pairs"] for one in found["comparisons"] if one["subset"] is None} == {30}
    accuracy = np.mean(np.array(margins(11))[10:] > 0)
    assert found["runs"][0]["metrics"]["eval"]["accuracy"] == pytest.approx(accuracy, rel=1e-12)
    assert [one["id"] for one in found["rows"]["eval"]] == [str(one) for one in range(10, 40)]

    c = world.run("c", 0.3, evaluations={10: {"eval": world.evaluated(margins(3, number=10), range(10))}})
    assert world.refuses(c, b, rows="common") == (
        "eval: the runs have no row in common; evaluate them on one set with rm-eval"
    )


def with_hard(world: World, name: str, lr: float, number: int | None) -> Path:
    sets = {"eval": world.evaluated(margins(int(100 * lr)))}
    if number is not None:
        sets["hard"] = world.evaluated(margins(7, number=number), range(number))
    return world.run(name, lr, evaluations={10: sets})


def test_another_set_that_differs_is_left_out_and_the_main_set_is_not(world: World) -> None:
    a, b, c = with_hard(world, "a", 0.1, 20), with_hard(world, "b", 0.2, 20), with_hard(world, "c", 0.3, 12)
    found = world.compare(a, b, c)
    assert [one["name"] for one in found["sets"]] == ["eval"]
    (note,) = (one for one in found["notes"] if one.startswith("hard"))
    assert note.replace(str(world.root), "ROOT").startswith(
        "hard: left out, different rows: ROOT/a has 20 pairs, ROOT/c 12, and 12 are the same;"
    )
    assert world.refuses(a, b, c, sets=["hard"]).startswith("hard: different rows: ROOT/a has 20 pairs, ROOT/c 12,")
    found = world.compare(a, b, sets="hard")
    assert ([one["name"] for one in found["sets"]], found["set"]) == (["hard"], "hard")
    assert set(found["runs"][0]["metrics"]) == {"hard"}


def test_a_set_that_two_runs_have_is_compared_and_one_of_a_single_run_is_not(world: World) -> None:
    a, b, c = with_hard(world, "a", 0.1, 20), with_hard(world, "b", 0.2, 20), with_hard(world, "c", 0.3, None)
    found = world.compare(c, a, b)
    assert [(one["name"], one["num_pairs"]) for one in found["sets"]] == [("eval", 40), ("hard", 20)]
    assert "hard: 2 of 3 runs were evaluated on it." in found["notes"]
    assert [sorted(one["metrics"]) for one in found["groups"]] == [["eval"], ["eval", "hard"], ["eval", "hard"]]
    assert found["groups"][0]["places"].keys() == {"eval"}
    assert {(one["a"], one["b"]) for one in found["comparisons"] if one["set"] == "hard"} == {(1, 2)}
    # The sets of a pair are corrected together, and so are their subsets.
    family = [one for one in found["comparisons"] if (one["a"], one["b"], one["metric"]) == (1, 2, "accuracy")]
    assert [(one["set"], one["subset"]) for one in family] == [
        ("eval", None), ("eval", "list"), ("eval", "sum"), ("hard", None), ("hard", "list"), ("hard", "sum")
    ]  # fmt: skip
    for part in ([one for one in family if one["subset"] is None], [one for one in family if one["subset"]]):
        assert [one["p_holm"] for one in part] == holm([one["p"] for one in part])
    assert [one["name"] for one in world.compare(c, a)["sets"]] == ["eval"]
    assert world.refuses(c, a, sets=["hard"]) == "sets=hard: 2 of the runs must have this set; they share eval"
    assert world.refuses(a, b, sets=["eval", "soft"]) == (
        "sets=soft: 2 of the runs must have this set; they share eval, hard"
    )
    assert world.refuses(a, sets="soft") == "sets=soft: 1 of the runs must have this set; they share eval, hard"


def test_runs_that_share_no_set_are_refused(world: World) -> None:
    a = world.run("a", 0.1, evaluations={1: {"x": world.evaluated(margins(1))}}, final=1)
    b = world.run("b", 0.2, evaluations={1: {"y": world.evaluated(margins(1))}}, final=1)
    assert world.refuses(a, b) == (
        "no evaluation set is shared by two runs (ROOT/a has x; ROOT/b has y); evaluate them on one set with rm-eval"
    )


def test_the_others_are_measured_against_the_baseline(world: World) -> None:
    runs = [world.run(name, lr, quality=quality) for name, lr, quality in (("a", 0.1, 1), ("b", 0.2, 3), ("c", 0.3, 0))]

    def pairs(**more: Any) -> list[tuple[int, int]]:
        found = world.compare(*runs, **more)["comparisons"]
        return list(dict.fromkeys((one["a"], one["b"]) for one in found))

    assert pairs() == [(0, 1), (0, 2), (1, 2)]
    # And against the best one.
    for baseline in ("lr=0.1", str(runs[0])):
        assert pairs(baseline=baseline) == [(0, 1), (0, 2), (2, 1)]
    assert pairs(baseline="lr=0.2") == [(1, 0), (1, 2)]
    assert world.refuses(*runs, baseline="lr=7") == (
        "baseline=lr=7: is none of the compared runs; their labels are 'lr=0.1', 'lr=0.2', 'lr=0.3'"
    )


@pytest.mark.parametrize("ties", [False, True])
def test_of_many_candidates_each_is_compared_with_the_best_one(world: World, ties: bool) -> None:
    quality = [0.1] * 13
    quality[4], quality[9] = 3.0, -2.0
    records = [world.evaluated(margins(one, value)) for one, value in enumerate(quality)]
    if ties:
        # Nothing is right or wrong, so the loss decides, and less of it is better.
        records = [{**one, "label": np.full(40, 0.5)} for one in records]
    for number, one in enumerate(records):
        world.run(f"sweep/{number}", number + 1.0, evaluations={1: {"eval": one}}, final=1)
    found = world.compare(world.root / "sweep")
    assert {(one["a"], one["b"]) for one in found["comparisons"]} == {(one, 4) for one in range(13) if one != 4}
    assert {one["metric"] for one in found["comparisons"]} == ({"loss"} if ties else set(METRICS))
    found = world.compare(world.root / "sweep", baseline="lr=10")
    pairs = {(one["a"], one["b"]) for one in found["comparisons"]}
    assert pairs == {(9, one) for one in range(13) if one != 9} | {(one, 4) for one in range(13) if one not in (4, 9)}


TYPES: dict[str, Any] = {
    "version": int, "title": str, "created": str, "set": str, "sets": list, "options": list, "runs": list,
    "groups": list, "comparisons": list, "rows": dict, "notes": list,
}  # fmt: skip
NUMBER = (int, float)


def holds(value: dict[str, Any], types: dict[str, Any]) -> None:
    assert value.keys() == types.keys()
    for key, kind in types.items():
        assert isinstance(value[key], kind), (key, value[key])


def test_every_key_of_the_json(world: World) -> None:
    config = settings(math.inf, 1, odd=[None, math.nan], data={"eval": str(world.data)})
    a = world.run("a", config=config, evaluations={
        step: {"eval": world.evaluated(margins(step)), "hard": world.evaluated(margins(1)[:9], range(9))}
        for step in (0, 5, 10)
    })  # fmt: skip
    (a / "data_report.json").write_text(json.dumps({"splits": {"eval": {"source": "pairs.jsonl"}}}))
    with (a / "metrics.jsonl").open("a") as file:
        # A continued run wrote the step again; a killed one was cut off.
        file.write('{"step": 10, "kind": "eval", "eval_loss": null, "eval_accuracy": 0.125}\n{"step": 20, "ki')
    b = world.run("b", 0.5, 2, evaluations={10: {"eval": world.evaluated(margins(4))}}, summary=None)
    found = world.compare(a, b, name="both")

    text = (world.root / "out" / "compare.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == found
    holds(found, TYPES)
    assert (found["version"], found["title"], found["set"]) == (1, "both", "eval")
    assert found["sets"] == [
        {"name": "eval", "num_pairs": 40, "num_prompts": 20, "source": "pairs.jsonl",
         "subsets": ["list", "sum"]}
    ]  # fmt: skip
    assert found["options"] == ["optimizer.lr", "odd", "seed"]
    for run in found["runs"]:
        holds(run, {
            "id": int, "label": str, "path": str, "group": int, "seed": int, "status": str, "step": int,
            "seconds": (float, type(None)), "options": dict, "metrics": dict, "curves": dict, "calibration": dict,
            "margins": dict,
        })  # fmt: skip
        assert run["options"].keys() == set(found["options"])
    first, second = found["runs"]
    assert (first["options"]["optimizer.lr"], first["options"]["odd"]) == (None, [None, None])
    assert (first["seconds"], second["seconds"], second["status"]) == (1.5, None, "running")

    records = world.evaluated(margins(10))
    expected = record_metrics(records, 2000)
    assert first["metrics"] == {"eval": pytest.approx(expected, rel=1e-9)}
    assert {"list_accuracy", "list_num_pairs", "list_accuracy_ci_low", "temperature"} <= set(first["metrics"]["eval"])
    curve = first["curves"]["eval"]
    assert curve.keys() == {"step", "accuracy", "low", "high", "loss"}
    assert curve["step"] == [0, 5, 10]
    assert (curve["accuracy"][2], curve["loss"][2], curve["low"][2]) == (0.125, None, None)
    start = record_metrics(world.evaluated(margins(0)), 50)
    assert [curve[key][0] for key in ("accuracy", "low", "high", "loss")] == pytest.approx(
        [start[key] for key in ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "loss")], rel=1e-9
    )
    assert first["curves"]["train"] == {"step": [5, 10], "loss": [0.7, 0.7], "accuracy": [0.5, 0.5]}
    assert first["curves"].keys() == {"eval", "train"}
    bins = first["calibration"]["eval"]
    assert sum(pairs for _, _, pairs in bins) == 40
    ece = sum(abs(right - confidence) * pairs for confidence, right, pairs in bins) / 40
    assert ece == pytest.approx(first["metrics"]["eval"]["ece"], rel=1e-9)
    assert first["margins"]["eval"] == pytest.approx(margins(10), rel=1e-4)

    for group in found["groups"]:
        holds(group, {"id": int, "label": str, "runs": list, "metrics": dict, "places": dict})
        assert group["metrics"]["eval"].keys() == {"accuracy", "loss"}
        for one in group["metrics"]["eval"].values():
            holds(one, {"mean": float, "sd": type(None), "low": float, "high": float})
            assert one["low"] <= one["mean"] <= one["high"]
        low, high = group["places"]["eval"]
        assert 1 <= low <= high <= 2
    for one in found["comparisons"]:
        holds(one, {
            "a": int, "b": int, "set": str, "subset": (str, type(None)), "metric": str, "num_pairs": int,
            "num_prompts": int, "difference": float, "low": float, "high": float, "p": float, "p_holm": NUMBER,
            "different": bool, "smallest_detectable": float, "mcnemar_p": type(None), "seeds_counted": bool,
        })  # fmt: skip
    rows = found["rows"]["eval"]
    assert [one["id"] for one in rows] == [str(one) for one in range(40)]
    for one in rows:
        holds(one, {"id": str, "subset": str, "label": float, "weight": float, "length_difference": int,
                    "prompt": str, "chosen": str, "rejected": str})  # fmt: skip
    assert found["notes"] == [f"{b}: running; compared by its evaluations so far."]


def test_rows_have_their_texts(world: World, preferences: list[dict[str, str]]) -> None:
    found = world.compare(world.run("a", 0.1), world.run("b", 0.2))
    shown = [{key: one[key] for key in ("prompt", "chosen", "rejected", "subset")} for one in found["rows"]["eval"]]
    assert shown == preferences
    lengths = [one["length_difference"] for one in found["rows"]["eval"]]
    assert lengths == [len(one["chosen"]) - len(one["rejected"]) for one in preferences]


def test_texts_come_from_the_first_run_that_still_has_them(world: World, preferences: list[dict[str, str]]) -> None:
    gone = world.run("a", 0.1, config=settings(0.1, data={"eval": "gone.jsonl"}))
    unknown = world.run("b", 0.2, config=None)
    changed = world.root / "changed.jsonl"
    changed.write_text(json.dumps({"prompt": "p", "chosen": "c", "rejected": "r"}) + "\n")
    other = world.run("c", 0.3, config=settings(0.3, data={"eval": str(changed)}))
    # A relative path is that of the directory in which the run was started.
    moved = world.run("d", 0.4, config=settings(0.4, data={"eval": world.data.name}))
    (moved / "environment.json").write_text(json.dumps({"working_directory": str(world.root)}))

    found = world.compare(gone, unknown, other, moved)
    assert [one["prompt"] for one in found["rows"]["eval"]] == [one["prompt"] for one in preferences]
    assert not any("texts" in one for one in found["notes"])

    found = world.compare(gone, unknown)
    assert {one["prompt"] for one in found["rows"]["eval"]} == {None}
    (note,) = (one for one in found["notes"] if "texts" in one)
    assert note.startswith(f"eval: texts of pairs are not shown (the data of {gone} cannot be read again: data.eval=go")
    (note,) = (one for one in world.compare(other)["notes"] if "texts" in one)
    assert note == (
        f"eval: texts of pairs are not shown (the data of {other} has changed since: none of its pairs is the same)"
    )


def test_the_page_shows_pairs_on_which_models_disagree_and_others(world: World) -> None:
    count = 1000
    generator = np.random.default_rng(0)
    base = generator.normal(size=count)
    # Most are as sure, and right for both; none of these three is among those that are taken evenly.
    base[:800], odd = 3, [5, 502, 997]
    base[odd] = 1
    one = world.evaluated(np.resize(base, 40))
    big = {name: np.resize(column, count) for name, column in one.items()}
    big["id"] = np.array([str(at) for at in range(count)], dtype=object)
    big["pair_id"] = np.array([f"{at:016x}" for at in range(count)], dtype=object)
    flipped = base.copy()
    flipped[odd] = -1
    a = world.run("a", 0.1, evaluations={1: {"eval": {**big, "margin": base}}}, final=1)
    # A model of ten times the scale does not disagree.
    b = world.run("b", 0.2, evaluations={1: {"eval": {**big, "margin": 10 * flipped}}}, final=1)
    found = world.compare(a, b)
    rows = [int(row["id"]) for row in found["rows"]["eval"]]
    assert {*odd, 0, 999} <= set(rows)
    assert rows == sorted(set(rows))
    assert 300 <= len(rows) <= 600
    assert found["runs"][0]["margins"]["eval"] == pytest.approx(base[rows].tolist(), rel=1e-4)
    assert max(np.diff(rows)) <= 4
    assert found["sets"][0]["num_pairs"] == count


def test_one_run_is_described(world: World) -> None:
    found = world.compare(world.run("a", 0.1))
    assert (labels(found), groups(found), found["comparisons"], found["options"]) == (["a"], [[0]], [], [])
    assert found["groups"][0]["places"] == {"eval": [1, 1]}


def test_what_rm_eval_wrote_is_compared_by_the_config_of_the_model(world: World) -> None:
    runs = []
    for number, lr in enumerate((0.1, 0.2)):
        run = world.run(f"eval/{number}", lr, config={"checkpoint": "x", "seed": 9, "data": {"eval": str(world.data)}})
        (run / "model.yaml").write_text(json.dumps(settings(lr, number)))
        runs.append(run)
    found = world.compare(world.root / "eval")
    assert labels(found) == ["lr=0.1 seed=0", "lr=0.2 seed=1"]
    assert found["rows"]["eval"][0]["prompt"] == "What is 0?"


def test_repeating_a_comparison_gives_the_same_numbers(world: World) -> None:
    runs = [world.run(str(seed), lr, seed) for seed in (1, 2) for lr in (0.1 + seed / 100,)]
    one, two = (world.compare(*runs) for _ in range(2))
    assert {**one, "created": None} == {**two, "created": None}


def test_page_and_numbers_have_a_place_of_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    run = world.run("a")
    found = [compare_runs(CompareConfig(directories=[str(run)], num_resamples=1000)) for _ in range(2)]
    assert found[0].directory != found[1].directory
    for one in found:
        assert one.directory.parent == Path("outputs/compare")
        assert sorted(os.listdir(one.directory)) == ["compare.html", "compare.json"]
    alone = CompareConfig(directories=[str(run)], num_resamples=1000, html=False, output_dir="here/deep")
    assert os.listdir(compare_runs(alone).directory) == ["compare.json"]


def test_directories_that_hold_no_run_are_refused(world: World) -> None:
    assert world.refuses(world.root / "nowhere") == (
        "ROOT/nowhere: no such directory; name a run, a sweep or a checkpoint"
    )
    assert world.refuses(world.data) == "ROOT/data.jsonl: no such directory; name a run, a sweep or a checkpoint"
    (world.root / "empty" / "a" / "b" / "c").mkdir(parents=True)
    assert world.refuses(world.root / "empty") == "ROOT/empty: holds no run (a directory with metrics.jsonl and eval/)"
    model = world.root / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert world.refuses(model) == (
        "ROOT/model: holds no run (a directory with metrics.jsonl and eval/); "
        "evaluate the model with rm-eval checkpoint=ROOT/model"
    )
    # Four folders down is too deep.
    world.run("deep/a/b/c/run")
    assert world.refuses(world.root / "deep").startswith("ROOT/deep: holds no run")
    assert len(find_runs(str(world.root / "deep" / "a"))) == 1


def test_damaged_files_are_named(world: World) -> None:
    run, good = world.run("a", 0.1), world.run("b", 0.2)
    path = run / "eval" / "step_00000010" / "eval.parquet"
    records = world.evaluated(margins(1))
    path.write_bytes(b"not parquet")
    assert world.refuses(run, good).startswith("ROOT/a/eval/step_00000010/eval.parquet: cannot be read (ArrowInvalid: ")
    write_records({**records, "margin": np.where(np.arange(40) < 3, np.nan, 1.0)}, path)
    assert world.refuses(run, good) == (
        "ROOT/a/eval/step_00000010/eval.parquet: 3 pairs have rewards that are not finite; they cannot be compared"
    )
    write_records(records, path)
    for text in ("a: [b", "- 1", "text"):
        (run / "config.yaml").write_text(text)
        assert world.refuses(run, good).startswith("ROOT/a/config.yaml: is not the config of a run (")
    (run / "config.yaml").unlink()
    (run / "summary.json").write_text("[1")
    (run / "metrics.jsonl").write_bytes(b'\xff\n[1]\n"x"\n{"kind": "eval"}\n')
    assert FinishedRun(path=run).lines == []
    assert [one["status"] for one in world.compare(run, good)["runs"]] == ["running", "finished"]


@pytest.mark.parametrize("taken", ["a file", "below a file"])
def test_an_output_directory_that_cannot_be_made_is_refused(world: World, taken: str) -> None:
    run = world.run("a")
    blocked = world.data if taken == "a file" else world.data / "out"
    message = world.refuses(run, output_dir=str(blocked)).replace(str(blocked), "PATH")
    assert message.startswith("output_dir=ROOT/data.jsonl")
    assert message.endswith(
        "is a file; choose a directory" if taken == "a file" else "cannot be written (Not a directory)"
    )
