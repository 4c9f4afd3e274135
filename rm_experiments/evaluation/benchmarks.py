"""Benchmarks by name: the published rule that scores a set, and what published models reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rm_experiments.config.data_schema import DataConfig
from rm_experiments.errors import DataError
from rm_experiments.evaluation import benchmark_scores
from rm_experiments.evaluation.metrics import Objective, metrics
from rm_experiments.evaluation.records import Records
from rm_experiments.evaluation.statistics import NUM_RESAMPLES


class Published(NamedTuple):
    """What somebody reported of a model."""

    model: str
    figures: dict[str, float]
    """By the names that the rule gives."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a set is scored."""

    score: Callable[[Records], dict[str, float]]
    """A pure function of the records; figures without prefix. Raises `DataError` where the set is not whole."""
    rule: str
    """Where the rule is published."""
    published: tuple[Published, ...] = ()
    """Reference figures to show beside a result: of the same data and rule, but of other models."""


BENCHMARKS: dict[str, Benchmark] = {
    "reward_bench": Benchmark(
        score=benchmark_scores.reward_bench,
        rule="arXiv:2403.13787; rewardbench/utils.py, calculate_scores_per_section",
        published=(
            Published(
                "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2",
                {
                    "score": 0.931, "chat_score": 0.947, "chat_hard_score": 0.884, "safety_score": 0.927,
                    "reasoning_score": 0.967,
                },
                "leaderboard of January 2025, card of RLHFlow/Decision-Tree-Reward-Gemma-2-27B",
            ),
            Published(
                "nvidia/Llama-3.1-Nemotron-70B-Reward",
                {
                    "score": 0.941, "chat_score": 0.975, "chat_hard_score": 0.857, "safety_score": 0.951,
                    "reasoning_score": 0.981,
                },
                "leaderboard of January 2025, card of RLHFlow/Decision-Tree-Reward-Gemma-2-27B",
            ),
        ),
    ),
    "reward_bench_2": Benchmark(
        score=benchmark_scores.reward_bench_2,
        rule="arXiv:2506.01937; rewardbench/utils.py, reroll_and_score_dataset and process_single_model",
        published=(
            Published(
                "allenai/Llama-3.1-70B-Instruct-RM-RB2",
                {
                    "score": 0.761, "factuality_score": 0.813, "precise_if_score": 0.419, "math_score": 0.699,
                    "safety_score": 0.884, "focus_score": 0.865, "ties_score": 0.883,
                },
                "its model card",
            ),
        ),
    ),
    # The card also gives easy, normal and hard, but not as means over the domains: theirs is not the score.
    "rm_bench": Benchmark(
        score=benchmark_scores.rm_bench,
        rule="arXiv:2410.16184; github.com/THU-KEG/RM-Bench, compute_accuracy",
        published=tuple(
            Published(
                model,
                {"score": score, "chat_score": chat, "math_score": math, "code_score": code, "safety_score": safety},
                "card of nvidia/Llama-3.3-Nemotron-70B-Reward-Principle, September 2025",
            )
            for model, score, chat, math, code, safety in (
                ("nvidia/Llama-3.3-Nemotron-70B-Reward", 0.799, 0.754, 0.845, 0.693, 0.904),
                ("Skywork/Skywork-Reward-Gemma-2-27B", 0.705, 0.718, 0.592, 0.566, 0.943),
            )
        ),
    ),
    "judge_bench": Benchmark(
        score=benchmark_scores.judge_bench,
        rule="arXiv:2410.12784; github.com/ScalerLab/JudgeBench, utils/metrics.py",
        published=(
            Published(
                "nvidia/Llama-3.3-Nemotron-70B-Reward",
                {"score": 0.737},
                "GPT-4o's 350 pairs; arXiv:2505.11475 and its model card, May 2025",
            ),
        ),
    ),
    "llmbar": Benchmark(
        score=benchmark_scores.llmbar,
        rule="arXiv:2310.07641, table 2",
        published=(
            Published(
                "GPT-4, prompted (Vanilla), mean of both orders",
                {
                    "score": 0.772, "adversarial_score": 0.731, "natural_score": 0.935, "neighbor_score": 0.642,
                    "gptinst_score": 0.766, "gptout_score": 0.766, "manual_score": 0.750,
                },
                "github.com/princeton-nlp/LLMBar, evaluators/GPT-4/Vanilla_NoRules/statistics.json of each set",
            ),
        ),
    ),
    "ppe": Benchmark(
        score=benchmark_scores.ppe,
        rule="arXiv:2410.14872",
        published=(
            Published("Nexusflow/Athene-RM-70B", {"score": 0.6656}, "arXiv:2410.14872"),
            Published("Nexusflow/Athene-RM-8B", {"score": 0.6459}, "arXiv:2410.14872"),
        ),
    ),
    "hhh": Benchmark(score=benchmark_scores.hhh, rule="arXiv:2112.00861; BIG-bench, hhh_alignment"),
    "best_of_n": Benchmark(score=benchmark_scores.best_of_n, rule="arXiv:2112.09332, appendix I; arXiv:2210.10760"),
}  # fmt: skip
"""Rules by the name in `data.eval_sets.NAME.benchmark`; `conf/benchmark/` has sets for them."""


def benchmark_of(data: DataConfig, name: str) -> str | None:
    """The rule of the evaluation set `name`, if it has one."""
    named = data.eval_sets.get(name)
    return None if named is None else named.benchmark


def set_metrics(
    records: Records, objective: Objective, benchmark: str | None, resamples: int = NUM_RESAMPLES
) -> dict[str, float]:
    """Every metric of one evaluation set, without prefix, and the figures of its benchmark, if it has one.

    Args:
        objective: the training loss of each pair.
        benchmark: a name in BENCHMARKS.
        resamples: of the bootstrap.

    Raises:
        DataError: the set is not what the benchmark scores, or the name of a subset makes a metric's name.
    """
    values = metrics(records, objective, resamples)
    if benchmark is None:
        return values
    scores = BENCHMARKS[benchmark].score(records)
    both = sorted(values.keys() & scores.keys())
    if both:
        raise DataError(
            f"benchmark {benchmark}: a subset makes the metric {both[0]!r}, which is a figure of it; rename it"
        )
    return values | scores
