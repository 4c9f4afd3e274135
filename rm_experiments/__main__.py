"""`python -m rm_experiments` is `rm-train`."""

from rm_experiments.cli.entry import rm_train

if __name__ == "__main__":
    rm_train()
