"""When to evaluate, the pass over a set, its records, and metrics that are functions of the records."""
