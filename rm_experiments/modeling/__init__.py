"""The tokenizer, the backbone and its reward head."""
