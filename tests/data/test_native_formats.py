"""Every published layout: rows as its source describes them, and the pairs that they hold, written by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rm_experiments.config.data_schema import ColumnsConfig
from rm_experiments.data.formats import FORMATS, SplitReport, read_pairs
from rm_experiments.data.formats.datasets import DATASETS
from rm_experiments.data.pairs import PreferencePair, Text
from rm_experiments.errors import DataError


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def human(value: str) -> dict[str, Any]:
    return {"from": "human", "value": value}


def gpt(value: str) -> dict[str, Any]:
    return {"from": "gpt", "value": value}


def pair(prompt: Text, chosen: Text, rejected: Text, **others: Any) -> PreferencePair:
    return PreferencePair(**{"id": "0", "prompt": prompt, "chosen": chosen, "rejected": rejected, **others})


def judge_prompt(instruction: str, response: str) -> str:
    """As in prometheus-eval's HHH files."""
    return (
        f"###Task Description:\nEvaluate it.\n\n###The instruction to evaluate:\n{instruction}\n\n"
        f"###Response to evaluate:\n{response}\n\n###Score Rubrics:\n[Is it kind?]\nScore 1: No.\n\n###Feedback: "
    )


def marked(question: str, answer: str) -> str:
    """As examples/nlp/data/steerlm/process_to_regression_format.py of NeMo-Aligner writes it."""
    return f"<extra_id_0>System\nBe brief.\n<extra_id_1>User\n{question}\n<extra_id_1>Assistant\n{answer}\n<extra_id_2>"


def completion(text: str, score: float, fine: float) -> dict[str, Any]:
    """As on the card of openbmb/UltraFeedback."""
    return {
        "model": "m", "principle": "honesty", "custom_system_prompt": "s", "response": text, "critique": "c",
        "overall_score": score, "fine-grained_score": fine, "annotations": {"honesty": {"Rating": "5"}},
    }  # fmt: skip


HI, A, B = user("hi"), assistant("a"), assistant("b")
RATINGS = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}

# fmt: off
CASES: dict[str, tuple[str, list[dict[str, Any]], list[PreferencePair]]] = {
    # Name, with what follows a space telling cases apart: the format, rows, pairs. Sources: `Format.source`.
    "hh_rlhf": (
        "hh_rlhf",
        [{"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}],
        [pair([HI], [A], [B])],
    ),
    "ultrafeedback_binarized of HuggingFaceH4": (
        "ultrafeedback_binarized",
        [{
            "prompt": "hi", "prompt_id": "5d41", "chosen": [HI, A], "rejected": [HI, B], "messages": [HI, A],
            "score_chosen": 8.5, "score_rejected": 6.0,
        }],
        [pair("hi", [A], [B], margin=2.5)],
    ),
    "ultrafeedback_binarized of trl-lib": (
        "ultrafeedback_binarized",
        [{"chosen": [HI, A], "rejected": [HI, B], "score_chosen": 5.0, "score_rejected": 5.0}],
        [pair([HI], [A], [B], margin=0.0)],
    ),
    "skywork_preference": (
        "skywork_preference",
        [{"chosen": [HI, A], "rejected": [HI, B], "source": "magpie_pro"}],
        [pair([HI], [A], [B], subset="magpie_pro")],
    ),
    "tulu3": (
        "tulu3",
        [
            {"id": "x_1", "source": "ai2/if", "prompt": "hi", "chosen": [HI, A], "rejected": [HI, B]},
            {
                "id": "x_2", "source": "ai2/if", "prompt": "well", "chosen": [HI, A, user("well"), B],
                "rejected": [HI, A, user("well"), A],
            },
        ],
        [
            pair([HI], [A], [B], id="x_1", subset="ai2/if"),
            pair([HI, A, user("well")], [B], [A], id="x_2", subset="ai2/if"),
        ],
    ),
    "orca_dpo_pairs": (
        "orca_dpo_pairs",
        [
            {"system": "Be kind.", "question": "hi", "chosen": "a", "rejected": "b"},
            {"system": "", "question": "hi", "chosen": "a", "rejected": "b"},
        ],
        [pair([system("Be kind."), HI], "a", "b"), pair("hi", "a", "b", id="1")],
    ),
    "stack_exchange_paired": (
        "stack_exchange_paired",
        [{"qid": 7, "question": "hi", "date": "2020", "metadata": ["u"], "response_j": "a", "response_k": "b"}],
        [pair("hi", "a", "b")],
    ),
    "sharegpt": (
        "sharegpt",
        [{
            "conversations": [{"from": "system", "value": "s"}, human("hi"), gpt("so?"), human("well")],
            "chosen": gpt("a"), "rejected": gpt("b"),
        }],
        [pair([system("s"), HI, assistant("so?"), user("well")], [A], [B])],
    ),
    "sharegpt with tools": (
        "sharegpt",
        [{
            "conversations": [
                human("hi"), {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "4"}
            ],
            "chosen": gpt("a"), "rejected": gpt("b"), "tools": '[{"name": "f"}]', "system": "s",
        }],
        [pair(
            [system("s"), HI, assistant("{}"), {"role": "tool", "content": "4"}], [A], [B], tools=[{"name": "f"}]
        )],
    ),
    "reward_bench": (
        "reward_bench",
        [{
            "prompt": "hi", "chosen": "a", "chosen_model": "m", "rejected": "b", "rejected_model": "n",
            "subset": "refusals-dangerous", "id": 30,
        }],
        [pair("hi", "a", "b", id="30", subset="refusals-dangerous")],
    ),
    "reward_bench_2": (
        "reward_bench_2",
        [
            {
                "id": "7", "prompt": "hi", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1,
                "num_incorrect": 3, "total_completions": 4, "models": ["m"], "subset": "Math",
                "additional_metadata": {"category": None, "subcategory": "algebra", "valid": 1.0},
            },
            {
                "id": "8", "prompt": "hi", "chosen": ["a", "b"], "rejected": ["c"], "num_correct": 2,
                "num_incorrect": 1, "total_completions": 3, "models": ["m"], "subset": "Ties",
            },
        ],
        [
            pair("hi", "a", "b", id="7-0-0", subset="Math", weight=1 / 3),
            pair("hi", "a", "c", id="7-0-1", subset="Math", weight=1 / 3),
            pair("hi", "a", "d", id="7-0-2", subset="Math", weight=1 / 3),
            pair("hi", "a", "c", id="8-0-0", subset="Ties", weight=1 / 2),
            pair("hi", "b", "c", id="8-1-0", subset="Ties", weight=1 / 2),
        ],
    ),
    "rm_bench": (
        "rm_bench",
        [{"id": "x", "prompt": "hi", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "domain": "chat"}],
        [
            pair("hi", "abc"[i], "def"[j], id=f"x-c{i}r{j}", subset="chat", weight=1 / 9)
            for i in range(3) for j in range(3)
        ],
    ),
    "ifbench": (
        "ifbench",
        [{"text_chosen": [HI, A], "text_rejected": [HI, B], "id": 940, "domain": "level-3"}],
        [pair([HI], [A], [B], id="940", subset="level-3")],
    ),
    "hhh_alignment": (
        "hhh_alignment",
        [
            {"input": "hi", "targets": {"choices": ["a", "b"], "labels": labels}, "subset": "honest"}
            for labels in ([1, 0], [0, 1])
        ],
        [pair("hi", "a", "b", subset="honest"), pair("hi", "b", "a", subset="honest", id="1")],
    ),
    "hhh_alignment of BIG-bench": (
        "hhh_alignment",
        [{"input": "hi", "target_scores": {"a": 0, "b": 1}}],
        [pair("hi", "b", "a")],
    ),
    "prometheus_hhh": (
        "prometheus_hhh",
        [{
            "source": "harmless", "chosen_instruction": judge_prompt("hi\n\nyou", "a\nb"),
            "rejected_instruction": judge_prompt("hi\n\nyou", "c"),
        }],
        [pair("hi\n\nyou", "a\nb", "c", subset="harmless")],
    ),
    "prometheus_hhh with several turns": (
        "prometheus_hhh",
        [
            {
                "source": "honest", "chosen_instruction": judge_prompt(instruction, "a"),
                "rejected_instruction": judge_prompt(instruction, "b"),
            }
            for instruction in ("hi  \n\nAssistant:  so?\n\nHuman:  well", "hi\n\nAssistant: so")
        ],
        [
            pair([HI, assistant("so?"), user("well")], "a", "b", subset="honest"),
            pair("hi\n\nAssistant: so", "a", "b", subset="honest", id="1"),
        ],
    ),
    "ms_swift with a response": (
        "ms_swift",
        [{"messages": [system("s"), HI, A], "rejected_response": "b"}],
        [pair([system("s"), HI], [A], [B])],
    ),
    "ms_swift with messages": (
        "ms_swift",
        [{"messages": [HI, A], "rejected_messages": [HI, B]}],
        [pair([HI], [A], [B])],
    ),
    "nemo_aligner_dpo": (
        "nemo_aligner_dpo",
        [{
            "prompt": "<extra_id_0>System\n\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\nso?\n<extra_id_1>User\n"
            "well\n<extra_id_1>Assistant\n",
            "chosen_response": "a\n<extra_id_1>", "rejected_response": "b\n<extra_id_1>",
        }],
        [pair([HI, assistant("so?"), user("well")], "a", "b")],
    ),
    "nemo_aligner_comparisons": (
        "nemo_aligner_comparisons",
        [{"text": marked(question, answer)} for question, answer in (("p", "a"), ("p", "b"), ("q", "b"), ("q", "a"))],
        [
            pair([system("Be brief."), user("p")], [A], [B]),
            pair([system("Be brief."), user("q")], [B], [A], id="2"),
        ],
    ),
    "helpsteer2_preference": (
        "helpsteer2_preference",
        [
            {
                "split": "train", "prompt": "hi\n<extra_id_1>Assistant\nso?\n<extra_id_1>User\nwell",
                "response_1": "a", "response_2": "b", "preference_strength": strength, "preference_statement": "s",
            }
            for strength in (-3, 1, 0)
        ],
        [
            pair([HI, assistant("so?"), user("well")], "a", "b", margin=3.0, chosen_first=True),
            pair([HI, assistant("so?"), user("well")], "b", "a", margin=1.0, chosen_first=False, id="1"),
            pair([HI, assistant("so?"), user("well")], "a", "b", margin=0.0, label=0.5, id="2"),
        ],
    ),
    "helpsteer3": (
        "helpsteer3",
        [{
            "domain": "code", "language": "python", "context": [HI, A, user("more")], "response1": "a",
            "response2": "b", "overall_preference": 2, "individual_preference": [{"score": 2, "reasoning": "r"}],
        }],
        [pair([HI, A, user("more")], "b", "a", margin=2.0, chosen_first=False, subset="code")],
    ),
    "shp": (
        "shp",
        [
            {
                "post_id": "x", "domain": "askhr_train", "history": "hi", "human_ref_A": "a", "human_ref_B": "b",
                "labels": label, "score_A": 9, "score_B": 3, "score_ratio": 3.0, "seconds_difference": 5.0,
            }
            for label in (1, 0)
        ],
        [
            pair("hi", "a", "b", chosen_first=True, subset="askhr_train"),
            pair("hi", "b", "a", chosen_first=False, subset="askhr_train", id="1"),
        ],
    ),
    "webgpt_comparisons": (
        "webgpt_comparisons",
        [
            {
                "question": {"dataset": "eli5", "id": "x", "full_text": "hi"}, "answer_0": "a", "answer_1": "b",
                "score_0": score, "score_1": -score, "quotes_0": {}, "quotes_1": {}, "tokens_0": {}, "tokens_1": {},
            }
            for score in (-0.5, 0.0)
        ],
        [
            pair("hi", "b", "a", margin=1.0, chosen_first=False, subset="eli5"),
            pair("hi", "a", "b", margin=0.0, label=0.5, subset="eli5", id="1"),
        ],
    ),
    "summarize_from_feedback": (
        "summarize_from_feedback",
        [
            {
                "info": info, "choice": 1, "worker": "w", "batch": "x", "split": "train", "extra": {"confidence": 8},
                "summaries": [{"text": "a", "policy": "p", "note": ""}, {"text": "b", "policy": "q", "note": ""}],
            }
            for info in (
                {"id": "t", "post": "hi", "title": "T", "subreddit": "cats", "site": None, "article": None},
                {"id": "t", "post": None, "title": "T", "subreddit": None, "site": "cnn", "article": "hi"},
            )
        ],
        [
            pair("SUBREDDIT: r/cats\n\nTITLE: T\n\nPOST: hi\n\nTL;DR:", "b", "a", chosen_first=False),
            pair("Article:\nhi\n\nTL;DR:\n", "b", "a", chosen_first=False, id="1"),
        ],
    ),
    "pku_safe_rlhf": (
        "pku_safe_rlhf",
        [{
            "prompt": "hi", "response_0": "a", "response_1": "b", "is_response_0_safe": True,
            "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0,
        }],
        [pair("hi", "b", "a", chosen_first=False)],
    ),
    "judge_bench": (
        "judge_bench",
        [{
            "pair_id": "x", "original_id": "1", "source": "mmlu-pro-law", "question": "hi", "response_model": "m",
            "response_A": "a", "response_B": "b", "label": "B>A",
        }],
        [pair("hi", "b", "a", chosen_first=False, id="x", subset="mmlu-pro-law")],
    ),
    "llmbar": (
        "llmbar",
        [{"input": "hi", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2)],
        [pair("hi", "a", "b", chosen_first=True), pair("hi", "b", "a", chosen_first=False, id="1")],
    ),
    "llmbar with its set": (
        "llmbar",
        [{"input": "hi", "output_1": "a", "output_2": "b", "label": 2, "subset": "Adversarial/Manual", "id": "m-1"}],
        [pair("hi", "b", "a", chosen_first=False, subset="Adversarial/Manual", id="m-1")],
    ),
    "ppe": (
        "ppe",
        [
            {
                "question_id": f"q{number}", "model_a": "m", "model_b": "n", "winner": winner, "judge": "j",
                "prompt": "hi", "response_1": "a", "response_2": "b", "language": "English", "is_code": False,
            }
            for number, winner in enumerate(("model_a", "model_b", "tie", "tie (bothbad)"))
        ],
        [
            pair("hi", "a", "b", chosen_first=True, id="q0"), pair("hi", "b", "a", chosen_first=False, id="q1"),
            pair("hi", "a", "b", label=0.5, id="q2"), pair("hi", "a", "b", label=0.5, id="q3"),
        ],
    ),
    "ppe_best_of_k": (
        "ppe_best_of_k",
        [{
            "question_id": "q0", "prompt": "hi", "category": "law", "scores": [False, True, True],
            "sampled_conflict_pairs": [[0, 1]], "response_1": "a", "response_2": "b", "response_3": "c",
        }],
        [
            pair("hi", "b", "a", margin=1.0, weight=1 / 2, id="0-b1o0"),
            pair("hi", "b", "c", margin=0.0, weight=1 / 2, label=0.5, id="0-b1o2"),
        ],
    ),
    "offsetbias": (
        "offsetbias",
        [
            {"instruction": "hi", "output_1": "a", "output_2": "b", "label": 1},
            {"instruction": "hi", "input": "you", "output_1": "a", "output_2": "b", "label": 2},
        ],
        [pair("hi", "a", "b", chosen_first=True), pair("hi\nyou", "b", "a", chosen_first=False, id="1")],
    ),
    "evalbiasbench": (
        "evalbiasbench",
        [{"bias": "length bias", "instruction": "hi", "response1": "a", "response2": "b", "label": 1}],
        [pair("hi", "a", "b", chosen_first=True, subset="length bias")],
    ),
    "pandalm": (
        "pandalm",
        [
            {
                "idx": index, "motivation_app": "Gmail", "cmp_key": "x_y", "instruction": "hi",
                "input": float("nan") if index else "you", "response1": "a", "response2": "b",
                "annotator1": one, "annotator2": two, "annotator3": three,
            }
            for index, (one, two, three) in enumerate([(1, 1, 1), (2, 1, 2), (1, 1, 0), (0, 2, 0), (0, 1, 2)])
        ],
        [
            pair("hi\nyou", "a", "b", chosen_first=True),
            pair("hi", "b", "a", chosen_first=False, label=pytest.approx(2 / 3), id="1"),
            pair("hi", "a", "b", chosen_first=True, label=pytest.approx(2.5 / 3), id="2"),
            pair("hi", "a", "b", label=0.5, id="3"),
            pair("hi", "a", "b", label=0.5, id="4"),
        ],
    ),
    "auto_j": (
        "auto_j",
        [
            {"scenario": "ranking", "label": label, "prompt": "hi", "response 1": "a", "response 2": "b"}
            for label in (0, 1, 2)
        ],
        [
            pair("hi", "a", "b", chosen_first=True, subset="ranking"),
            pair("hi", "b", "a", chosen_first=False, subset="ranking", id="1"),
            pair("hi", "a", "b", label=0.5, subset="ranking", id="2"),
        ],
    ),
    "alpaca_eval": (
        "alpaca_eval",
        [
            {
                "dataset": "koala", "instruction": "hi", "output_1": "a", "generator_1": "m", "output_2": "b",
                "generator_2": "n", "annotator": "gpt4", "preference": preference,
            }
            for preference in (1.0, 1.75, 2, 1.5, 0, None)
        ],
        [
            pair("hi", "a", "b", chosen_first=True, subset="koala"),
            pair("hi", "b", "a", chosen_first=False, label=0.75, subset="koala", id="1"),
            pair("hi", "b", "a", chosen_first=False, subset="koala", id="2"),
            pair("hi", "a", "b", label=0.5, subset="koala", id="3"),
            pair("hi", "a", "b", label=0.5, subset="koala", id="4"),
        ],
    ),
    "chatbot_arena": (
        "chatbot_arena",
        [
            {
                "question_id": winner, "model_a": "m", "model_b": "n", "winner": winner, "judge": "arena_user_1",
                "conversation_a": [HI, A], "conversation_b": [HI, B], "turn": 1, "language": "English",
            }
            for winner in ("model_b", "tie", "tie (bothbad)")
        ],
        [
            pair([HI], [B], [A], chosen_first=False, id="model_b"),
            pair([HI], [A], [B], label=0.5, id="tie"),
            pair([HI], [A], [B], label=0.5, id="tie (bothbad)"),
        ],
    ),
    "ultrafeedback": (
        "ultrafeedback",
        [{
            "source": "flan", "instruction": "hi", "models": ["m"], "correct_answers": ["None"],
            "incorrect_answers": ["None"],
            "completions": [completion("a", 6.0, 4.0), completion("b", 8.5, 3.0), completion("c", 6.0, 1.0)],
        }],
        [
            pair("hi", "b", "a", margin=2.5, subset="flan", weight=1 / 3, id="0-0-1"),
            pair("hi", "a", "c", margin=0.0, label=0.5, subset="flan", weight=1 / 3, id="0-0-2"),
            pair("hi", "b", "c", margin=2.5, subset="flan", weight=1 / 3, id="0-1-2"),
        ],
    ),
    "nectar": (
        "nectar",
        [{
            "prompt": "\n\nHuman: hi\n\nAssistant: so?\n\nHuman: well\n\nAssistant: ", "turns": 2,
            "num_responses": 2, "source": ["lmsys"], "good_natured": True,
            "answers": [{"answer": "b", "model": "m", "rank": 2.0}, {"answer": "a", "model": "n", "rank": 1.0}],
        }],
        [pair([HI, assistant("so?"), user("well")], "a", "b")],
    ),
    "nemo_rl_preference": (
        "nemo_rl_preference",
        [{
            "context": [HI], "task_name": "t",
            "completions": [{"rank": 0, "completion": [A]}, {"rank": 1, "completion": [B]}],
        }],
        [pair([HI], [A], [B])],
    ),
    "helpsteer2": (
        "helpsteer2",
        [
            {"prompt": prompt, "response": response, "helpfulness": helpfulness, **RATINGS}
            for prompt, response, helpfulness in (("hi", "a", 1), ("hi", "b", 3), ("so?", "c", 4), ("so?", "d", 4))
        ],
        [pair("hi", "b", "a", margin=2.0), pair("so?", "c", "d", margin=0.0, label=0.5, id="2")],
    ),
    "nemo_aligner_steerlm": (
        "nemo_aligner_steerlm",
        [
            {"text": marked(question, answer), "label": [-100, -100, -100, -100, helpfulness, 1, 2, 3, 4]}
            for question, answer, helpfulness in (("p", "a", 2.0), ("p", "b", 4.0), ("q", "a", 0.0), ("q", "b", -100))
        ],
        [pair([system("Be brief."), user("p")], [B], [A], margin=2.0)],
    ),
    "qa_feedback": (
        "qa_feedback",
        [{
            "question": "hi?", "passages": [["Cats", "Cats\n\nThey purr.", "They sleep."], ["Dogs", "They bark."]],
            "gold": "g", "prediction 1": "a", "prediction 2": "b", "prediction 3": "c", "prediction 4": "d",
            "feedback": {"errors": []}, "preference": [1, 2, 0, 1, 1, 2],
        }],
        [
            pair(
                "Cats\n\nThey purr. They sleep.\n\nDogs\n\nThey bark.\n\nhi?", chosen, rejected, weight=1 / 6,
                label=label, id=f"0-{place}",
            )
            for chosen, rejected, label, place in (
                ("a", "b", 1.0, "0-1"), ("c", "a", 1.0, "0-2"), ("a", "d", 0.5, "0-3"),
                ("b", "c", 1.0, "1-2"), ("b", "d", 1.0, "1-3"), ("d", "c", 1.0, "2-3"),
            )
        ],
    ),
    "dsp": (
        "dsp",
        [{"text": [f"## Human:\nhi\n\n\n\n## Assistant:\n {one}" for one in "ba"], "score": [0.5, 1.5]}],
        [pair([HI], [A], [B], margin=1.0)],
    ),
    "dsp without headings": (
        "dsp",
        [{
            "text": [f"\n\nHuman: hi\n\nAssistant: so?\n\nHuman: well\n\nAssistant: {one}" for one in "ba"],
            "score": [1, 0],
        }],
        [pair([HI, assistant("so?"), user("well")], [B], [A], margin=1.0)],
    ),
    "dsp of plain texts": (
        "dsp",
        [{"text": ["hi the a", "hi the b", "hi c"], "score": [2.0, 1.0, 0.0]}],
        [
            pair("hi ", "the a", "the b", margin=1.0, weight=1 / 3, id="0-0-1"),
            pair("hi ", "the a", "c", margin=2.0, weight=1 / 3, id="0-0-2"),
            pair("hi ", "the b", "c", margin=1.0, weight=1 / 3, id="0-1-2"),
        ],
    ),
}
# fmt: on


def read(
    path: Path, rows: list[dict[str, Any]], format: str = "auto", **columns: Any
) -> tuple[list[PreferencePair], SplitReport]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, report = read_pairs(str(path), "data.train", format, ColumnsConfig(**columns))
    for one in pairs:
        assert one.where.startswith(f"{path.name} line ")
        one.where = ""
    return pairs, report


@pytest.mark.parametrize(("format", "rows", "expected"), CASES.values(), ids=CASES.keys())
def test_pairs_of_a_published_layout(
    tmp_path: Path, format: str, rows: list[dict[str, Any]], expected: list[PreferencePair]
) -> None:
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert report.format == format
    assert pairs == expected
    assert read(tmp_path / "x.jsonl", rows, format)[0] == expected


def test_every_published_layout_has_a_case_and_a_source() -> None:
    assert {format for format, _, _ in CASES.values()} == {*DATASETS, "hh_rlhf"}
    assert all(FORMATS[name].source for name in DATASETS)


@pytest.mark.parametrize("name", CASES.keys())
def test_only_one_published_layout_recognises_a_row(tmp_path: Path, name: str) -> None:
    from rm_experiments.data.formats.cells import RowCells
    from rm_experiments.data.formats.columns import Columns
    from rm_experiments.data.sources import Row

    format, rows, _ = CASES[name]
    cells = RowCells(Row("x", 0, rows[0]), Columns(ColumnsConfig()), "data.train")
    assert [one for one in DATASETS if DATASETS[one].recognises(cells)] == ([format] if format != "hh_rlhf" else [])


def test_comparisons_without_marks(tmp_path: Path) -> None:
    """As in the user guide of NeMo-Aligner; nothing but the format's name tells such rows from other texts."""
    path = tmp_path / "x.jsonl"
    rows = [{"text": f"User: 2+2?\nAssistant: {answer}"} for answer in ("4", "5")]
    assert read(path, rows, "nemo_aligner_comparisons")[0] == [pair("User: 2+2?\nAssistant: ", "4", "5")]
    with pytest.raises(DataError, match=r"line 2: the dialogues begin with 'a' and 'b'; "):
        read(path, [{"text": "a"}, {"text": "b"}], "nemo_aligner_comparisons")


def test_null_preferences_are_counted(tmp_path: Path) -> None:
    _, report = read(tmp_path / "x.jsonl", CASES["alpaca_eval"][1])
    assert report.skipped == {"label is null": 1}
    assert (report.rows_read, report.pairs_read, report.label_ties, report.soft_labels) == (6, 5, 2, 1)


def test_unrated_dialogues_are_counted(tmp_path: Path) -> None:
    _, report = read(tmp_path / "x.jsonl", CASES["nemo_aligner_steerlm"][1])
    assert report.skipped == {"fewer than two rated responses": 2}


def test_ultrafeedback_without_some_ratings(tmp_path: Path) -> None:
    row = CASES["ultrafeedback"][1][0]
    first, second, third = row["completions"]
    without = {name: value for name, value in second.items() if name != "overall_score"}
    rows = [
        {**row, "completions": [first, without, {**third, "overall_score": 7.0}]},
        {**row, "completions": [first, {**second, "overall_score": float("nan")}, {**third, "overall_score": None}]},
        {**row, "completions": []},
        {**row, "completions": None},
    ]
    pairs, report = read(tmp_path / "x.jsonl", rows)
    assert pairs == [pair("hi", "c", "a", margin=1.0, subset="flan")]
    assert report.skipped == {"fewer than two rated responses": 3}


def test_the_user_may_name_other_columns_of_a_published_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    (safer,), report = read(path, CASES["pku_safe_rlhf"][1], label="safer_response_id")
    assert (safer.chosen, report.format) == ("a", "pku_safe_rlhf")
    fine, report = read(path, CASES["ultrafeedback"][1], scores="completions.fine-grained_score")
    assert [(one.chosen, one.rejected, one.margin) for one in fine] == [
        ("a", "b", 1.0),
        ("a", "c", 3.0),
        ("b", "c", 2.0),
    ]
    assert report.format == "ultrafeedback"
    rated, _ = read(path, CASES["helpsteer2"][1], "helpsteer2", scores="correctness")
    assert [one.label for one in rated] == [0.5, 0.5]


def test_a_json_object_with_answers_is_a_row(tmp_path: Path) -> None:
    row = CASES["sharegpt"][1][0]
    (tmp_path / "x.json").write_text(json.dumps(row))
    (found,), report = read_pairs(str(tmp_path / "x.json"), "data.train", "auto", ColumnsConfig())
    assert (report.format, found.chosen, found.where) == ("sharegpt", [A], "x.json row 1")
    (tmp_path / "x.json").write_text(json.dumps({"chosen": [HI, A], "rejected": [HI, B]}))
    (found,), report = read_pairs(str(tmp_path / "x.json"), "data.train", "auto", ColumnsConfig())
    assert (report.format, found.prompt, found.rejected) == ("preference", [HI], [B])


def test_a_json_object_of_lists_is_read_as_subsets(tmp_path: Path) -> None:
    """EvalBiasBench is one file with a list for each bias; lists of rows without a bias become subsets."""
    row = {"instruction": "hi", "response1": "a", "response2": "b", "label": 1}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"length": [{**row, "bias": "length bias"}], "empty": [{**row, "bias": "none"}] * 2}))
    pairs, report = read_pairs(str(path), "data.train", "auto", ColumnsConfig())
    assert report.format == "evalbiasbench"
    assert report.subsets == {"length bias": 1, "none": 2}
    assert [one.where for one in pairs] == ["x.json row 1", "x.json row 2", "x.json row 3"]
    path.write_text(json.dumps({"length": [row], "empty": [row]}))
    _, report = read_pairs(str(path), "data.train", "auto", ColumnsConfig())
    assert (report.format, report.subsets) == ("pairwise", {"length": 1, "empty": 1})


HHH = "they must be two choices, one of label 1 and one of 0"
BAD_ROWS = {
    "hhh_alignment": [
        ({"input": "hi", "targets": {"choices": ["a", "b", "c"], "labels": [1, 0, 0]}}, HHH),
        ({"input": "hi", "targets": {"choices": ["a", "b"], "labels": [1, 1]}}, HHH),
        ({"input": "hi", "targets": {"choices": ["a"], "labels": [1, 0]}}, HHH),
        ({"input": "hi", "targets": "a"}, HHH),
        ({"input": "hi", "target_scores": {"a": 1, "b": 0, "c": 0}}, HHH),
        ({"input": "hi"}, "column 'target_scores' is missing"),
    ],
    "ppe_best_of_k": [
        ({"prompt": "hi", "scores": [True], "response_1": "a"}, "it must be a list of two or more booleans"),
        ({"prompt": "hi", "scores": [True, None], "response_1": "a"}, "it must be a list of two or more booleans"),
        ({"prompt": "hi", "scores": [True, False], "response_1": "a"}, "column 'response_2' is missing"),
        (
            {"prompt": "hi", "scores": [True, False], **{f"response_{one}": "a" for one in (1, 2, 3)}},
            "'scores' has 2 items, but there are more responses",
        ),
    ],
}


@pytest.mark.parametrize(
    ("format", "row", "message"), [(name, row, message) for name, found in BAD_ROWS.items() for row, message in found]
)
def test_a_row_of_a_benchmark_that_is_something_else_is_refused(
    tmp_path: Path, format: str, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path / "x.jsonl", [row], format)
