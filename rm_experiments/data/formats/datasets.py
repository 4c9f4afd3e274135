"""Published data sets: what their columns are called. Those that columns cannot say are in `adapters`."""

from __future__ import annotations

from rm_experiments.data.formats import adapters
from rm_experiments.data.formats.base import Format, has
from rm_experiments.data.formats.best_of_n import ppe_best_of_k
from rm_experiments.data.formats.columns import Labels
from rm_experiments.data.formats.dialogues import extra_ids, human_assistant_prompt
from rm_experiments.data.formats.kwise import best_of, pointwise, prompt_key, responses
from rm_experiments.data.formats.layouts import preference
from rm_experiments.data.formats.pairwise import pairwise

_HUB = "https://huggingface.co/datasets"
_ONE_TWO = Labels(first=(1,), second=(2,))
_ZERO_ONE = Labels(first=(0,), second=(1,))

CHOSEN_REJECTED: dict[str, Format] = {
    "ultrafeedback_binarized": Format(
        read=preference,
        recognises=has("chosen", "rejected", "score_chosen", "score_rejected"),
        source=f"{_HUB}/HuggingFaceH4/ultrafeedback_binarized, {_HUB}/trl-lib/ultrafeedback_binarized",
    ),
    "skywork_preference": Format(
        read=preference,
        names={"subset": "source"},
        recognises=has("chosen", "rejected", "source", only=True),
        source=f"{_HUB}/Skywork/Skywork-Reward-Preference-80K-v0.2",
    ),
    "tulu3": Format(
        read=preference,
        # The prompt column is one text; the dialogues in chosen and rejected are whole, of several turns too.
        names={"prompt": (), "subset": "source"},
        recognises=has("id", "source", "prompt", "chosen", "rejected", only=True),
        source=f"{_HUB}/allenai/llama-3.1-tulu-3-8b-preference-mixture",
    ),
    "orca_dpo_pairs": Format(
        read=preference,
        recognises=has("system", "question", "chosen", "rejected", only=True),
        source=f"{_HUB}/Intel/orca_dpo_pairs",
    ),
    "stack_exchange_paired": Format(
        read=preference,
        names={"chosen": "response_j", "rejected": "response_k"},
        recognises=has("question", "response_j", "response_k"),
        source=f"{_HUB}/lvwerra/stack-exchange-paired",
    ),
    "sharegpt": Format(
        read=preference,
        names={"prompt": "conversations"},
        recognises=has("conversations", "chosen", "rejected"),
        source="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md",
    ),
    "reward_bench": Format(
        read=preference,
        recognises=has("prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset", "id"),
        source=f"{_HUB}/allenai/reward-bench",
    ),
    "reward_bench_2": Format(
        read=best_of,
        recognises=has("prompt", "chosen", "rejected", "num_correct", "num_incorrect", "subset"),
        source=f"{_HUB}/allenai/reward-bench-2",
    ),
    "rm_bench": Format(
        read=adapters.rm_bench,
        names={"subset": "domain"},
        recognises=adapters.is_rm_bench,
        source="https://github.com/THU-KEG/RM-Bench",
    ),
    "ifbench": Format(
        read=preference,
        names={"chosen": "text_chosen", "rejected": "text_rejected", "subset": "domain"},
        recognises=has("text_chosen", "text_rejected", "id", "domain", only=True),
        source="https://github.com/THU-KEG/Agentic-Reward-Modeling",
    ),
    "prometheus_hhh": Format(
        read=adapters.prometheus_hhh,
        names={"chosen": "chosen_instruction", "rejected": "rejected_instruction", "subset": "source"},
        recognises=has("source", "chosen_instruction", "rejected_instruction", only=True),
        source="https://github.com/prometheus-eval/prometheus-eval (HHH Alignment, arXiv:2112.00861)",
    ),
    "hhh_alignment": Format(
        read=adapters.hhh_alignment,
        names={"prompt": "input"},
        recognises=adapters.is_hhh_alignment,
        source=f"{_HUB}/HuggingFaceH4/hhh_alignment, BIG-bench hhh_alignment, arXiv:2112.00861",
    ),
    "ms_swift": Format(
        read=adapters.ms_swift,
        names={"rejected": ("rejected_response", "rejected_messages")},
        recognises=adapters.is_ms_swift,
        source="https://github.com/modelscope/ms-swift, Custom-dataset (RLHF)",
    ),
    "nemo_aligner_dpo": Format(
        read=adapters.nemo_aligner_dpo,
        names={"chosen": "chosen_response", "rejected": "rejected_response"},
        recognises=adapters.is_nemo_aligner_dpo,
        source="https://github.com/NVIDIA/NeMo-Aligner/blob/main/docs/user-guide/dpo.rst",
    ),
    "nemo_aligner_comparisons": Format(
        read_group=adapters.nemo_aligner_comparisons,
        group_key=lambda cells: cells.row.number // 2,
        names={"responses": "text"},
        recognises=adapters.is_nemo_aligner_comparisons,
        source="https://github.com/NVIDIA/NeMo-Aligner/blob/main/docs/user-guide/rlhf.rst",
    ),
}
"""Rows that name the preferred answer by its column or its place."""

LABELLED: dict[str, Format] = {
    "helpsteer2_preference": Format(
        read=adapters.preference_strength,
        names={
            "response_a": "response_1",
            "response_b": "response_2",
            "label": "preference_strength",
        },
        parse=extra_ids,
        recognises=has("prompt", "response_1", "response_2", "preference_strength"),
        source=f"{_HUB}/nvidia/HelpSteer2 (preference), arXiv:2410.01257",
    ),
    "helpsteer3": Format(
        read=adapters.preference_strength,
        names={
            "prompt": "context",
            "response_a": "response1",
            "response_b": "response2",
            "label": "overall_preference",
            "subset": "domain",
        },
        recognises=has("context", "response1", "response2", "overall_preference"),
        source=f"{_HUB}/nvidia/HelpSteer3, arXiv:2505.11475",
    ),
    "shp": Format(
        read=pairwise,
        names={
            "prompt": "history",
            "response_a": "human_ref_A",
            "response_b": "human_ref_B",
            "label": "labels",
            "subset": "domain",
        },
        labels=Labels(first=(1,), second=(0,)),
        recognises=has("history", "human_ref_A", "human_ref_B", "labels"),
        source=f"{_HUB}/stanfordnlp/SHP",
    ),
    "webgpt_comparisons": Format(
        read=pairwise,
        names={
            "prompt": "question.full_text",
            "response_a": "answer_0",
            "response_b": "answer_1",
            "score_a": "score_0",
            "score_b": "score_1",
            "subset": "question.dataset",
        },
        recognises=has("question", "answer_0", "answer_1", "score_0", "score_1", "quotes_0", "quotes_1"),
        source=f"{_HUB}/openai/webgpt_comparisons, arXiv:2112.09332",
    ),
    "summarize_from_feedback": Format(
        read=adapters.summarize_from_feedback,
        names={
            "response_a": "summaries.0.text",
            "response_b": "summaries.1.text",
            "label": "choice",
        },
        labels=_ZERO_ONE,
        recognises=has("info", "summaries", "choice"),
        source=f"{_HUB}/openai/summarize_from_feedback (comparisons), arXiv:2009.01325",
    ),
    "pku_safe_rlhf": Format(
        read=pairwise,
        names={"response_a": "response_0", "response_b": "response_1", "label": "better_response_id"},
        labels=_ZERO_ONE,
        recognises=has("prompt", "response_0", "response_1", "better_response_id", "safer_response_id"),
        source=f"{_HUB}/PKU-Alignment/PKU-SafeRLHF, arXiv:2406.15513",
    ),
    "judge_bench": Format(
        read=pairwise,
        names={"response_a": "response_A", "response_b": "response_B", "id": "pair_id", "subset": "source"},
        labels=Labels(first=("A>B",), second=("B>A",), tie=("A=B",)),
        recognises=has("pair_id", "question", "response_A", "response_B", "label"),
        source="https://github.com/ScalerLab/JudgeBench, arXiv:2410.12784",
    ),
    "llmbar": Format(
        read=pairwise,
        names={"prompt": "input", "response_a": "output_1", "response_b": "output_2"},
        labels=_ONE_TWO,
        recognises=adapters.is_llmbar,
        source="https://github.com/princeton-nlp/LLMBar, arXiv:2310.07641",
    ),
    "ppe": Format(
        read=pairwise,
        names={"response_a": "response_1", "response_b": "response_2", "label": "winner", "id": "question_id"},
        labels=Labels(first=("model_a",), second=("model_b",), tie=("tie (bothbad)",)),
        recognises=has("question_id", "model_a", "model_b", "winner", "prompt", "response_1", "response_2"),
        source=f"{_HUB}/lmarena-ai/PPE-Human-Preference-V1, arXiv:2410.14872",
    ),
    "offsetbias": Format(
        read=pairwise,
        names={"response_a": "output_1", "response_b": "output_2"},
        labels=_ONE_TWO,
        recognises=has("instruction", "output_1", "output_2", "label"),
        source=f"{_HUB}/NCSOFT/offsetbias, arXiv:2407.06551",
    ),
    "evalbiasbench": Format(
        read=pairwise,
        names={"response_a": "response1", "response_b": "response2", "subset": "bias"},
        labels=_ONE_TWO,
        recognises=has("bias", "instruction", "response1", "response2", "label"),
        source="https://github.com/ncsoft/offsetbias, arXiv:2407.06551",
    ),
    "pandalm": Format(
        read=adapters.pandalm,
        names={"response_a": "response1", "response_b": "response2", "id": "idx"},
        recognises=has("instruction", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        source="https://github.com/WeOpenML/PandaLM/blob/main/data/testset-v1.json, arXiv:2306.05087",
    ),
    "auto_j": Format(
        read=pairwise,
        names={"response_a": "response 1", "response_b": "response 2", "subset": "scenario"},
        labels=Labels(first=(0,), second=(1,), tie=(2,)),
        recognises=has("scenario", "label", "prompt", "response 1", "response 2"),
        source="https://github.com/GAIR-NLP/auto-j, arXiv:2310.05470",
    ),
    "alpaca_eval": Format(
        read=adapters.alpaca_eval,
        names={
            "response_a": "output_1",
            "response_b": "output_2",
            "label": "preference",
            "subset": "dataset",
        },
        recognises=has("instruction", "output_1", "output_2", "preference"),
        source="https://github.com/tatsu-lab/alpaca_eval, arXiv:2404.04475",
    ),
    "chatbot_arena": Format(
        read=pairwise,
        names={
            "response_a": "conversation_a",
            "response_b": "conversation_b",
            "label": "winner",
            "id": "question_id",
        },
        labels=Labels(first=("model_a",), second=("model_b",), tie=("tie (bothbad)",)),
        recognises=has("conversation_a", "conversation_b", "winner"),
        source=f"{_HUB}/lmsys/chatbot_arena_conversations",
    ),
}
"""Two answers whose order says nothing, and a label."""

RATED: dict[str, Format] = {
    "ultrafeedback": Format(
        read=responses,
        names={
            "prompt": "instruction",
            "responses": "completions.response",
            "scores": "completions.overall_score",
            "subset": "source",
        },
        recognises=has("instruction", "completions", "models", "source"),
        source=f"{_HUB}/openbmb/UltraFeedback, arXiv:2310.01377",
    ),
    "nectar": Format(
        read=responses,
        names={"responses": "answers.answer", "ranks": "answers.rank"},
        parse=human_assistant_prompt,
        recognises=has("prompt", "answers", "turns", "num_responses"),
        source=f"{_HUB}/berkeley-nest/Nectar",
    ),
    "nemo_rl_preference": Format(
        read=responses,
        names={"prompt": "context", "responses": "completions.completion", "ranks": "completions.rank"},
        recognises=adapters.is_nemo_rl_preference,
        source="https://github.com/NVIDIA-NeMo/RL/blob/main/docs/guides/rm.md",
    ),
    "helpsteer2": Format(
        read_group=pointwise,
        group_key=prompt_key,
        names={"responses": "response", "scores": "helpfulness"},
        parse=extra_ids,
        recognises=has("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity"),
        source=f"{_HUB}/nvidia/HelpSteer2, arXiv:2406.08673",
    ),
    "nemo_aligner_steerlm": Format(
        read_group=adapters.nemo_aligner_steerlm,
        group_key=adapters.steerlm_prompt,
        recognises=adapters.is_nemo_aligner_steerlm,
        source="https://github.com/NVIDIA/NeMo-Aligner/tree/main/examples/nlp/data/steerlm",
    ),
    "ppe_best_of_k": Format(
        read=ppe_best_of_k,
        # A question occurs once per model that answered it, so the row's number is its id.
        names={"id": ()},
        recognises=has("question_id", "prompt", "scores", "response_1", "response_2"),
        source=f"{_HUB}/lmarena-ai/PPE-MMLU-Pro-Best-of-K and four others, arXiv:2410.14872",
    ),
    "qa_feedback": Format(
        read=adapters.qa_feedback,
        recognises=has("question", "passages", "preference", *(f"prediction {one}" for one in range(1, 5))),
        source="https://github.com/allenai/FineGrainedRLHF, arXiv:2306.01693",
    ),
    "dsp": Format(
        read=adapters.dsp,
        names={"responses": "text", "scores": "score"},
        recognises=adapters.is_dsp,
        source="https://github.com/Linear95/DSP, arXiv:2309.03126",
    ),
}
"""Several rated answers to a prompt."""

DATASETS: dict[str, Format] = CHOSEN_REJECTED | LABELLED | RATED
