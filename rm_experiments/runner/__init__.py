"""One run from its config to its results: preparation, the loop with evaluation and saving, and what it leaves."""
