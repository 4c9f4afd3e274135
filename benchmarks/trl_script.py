"""What a user of TRL writes for one run, from files to a saved model; `job.py` runs it in a process of its own."""

from __future__ import annotations

import json
import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


def main() -> None:
    """Settings come as JSON; the numbers of the run go to `numbers`."""
    setting = json.loads(sys.argv[1])
    model = AutoModelForSequenceClassification.from_pretrained(setting["model"], num_labels=1, dtype="float32")
    dataset = load_dataset("json", data_files={"train": setting["train"], "eval": setting["eval"]})
    arguments = RewardConfig(
        output_dir=setting["output"], seed=setting["seed"], num_train_epochs=1, learning_rate=setting["lr"],
        per_device_train_batch_size=setting["batch_size"], bf16=setting["precision"] == "bf16", report_to="none",
        gradient_checkpointing=setting["checkpointing"], use_cpu=setting["device"] == "cpu", save_strategy="no",
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model, args=arguments, train_dataset=dataset["train"], eval_dataset=dataset["eval"],
        processing_class=AutoTokenizer.from_pretrained(setting["model"]),
    )  # fmt: skip
    trainer.train()
    evaluated = trainer.evaluate()
    trainer.save_model()
    trained = [line["num_tokens"] for line in trainer.state.log_history if "num_tokens" in line]
    with open(setting["numbers"], "w", encoding="utf-8") as file:
        json.dump({"tokens": trained[-1], "eval_loss": evaluated["eval_loss"]}, file)


if __name__ == "__main__":
    main()
