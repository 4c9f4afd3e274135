"""`python -m rm_experiments` is `rm-train`."""

from rm_experiments.cli.train import main

if __name__ == "__main__":
    main()
