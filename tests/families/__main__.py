"""Print the table of docs/models.md: known families, what is trained, and the largest differences that were found.

python -m tests.families
python -m tests.families Llama Qwen3
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

from transformers.utils import logging as transformers_logging

from tests.families.check import MODES, check_family, table
from tests.families.data import make_pairs, make_tokenizer
from tests.families.models import FAMILIES, write_base


def main(asked: list[str]) -> None:
    """Check the families whose names begin so; all without one."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    pairs, rows = make_pairs(tokenizer), []
    with tempfile.TemporaryDirectory() as root:
        for number, family in enumerate(one for one in FAMILIES if one.startswith(tuple(asked) or "")):
            base = Path(root) / str(number)
            write_base(base, family, tokenizer)
            for mode in MODES:
                rows.append((family, mode, check_family(base, mode, tokenizer, pairs, base / mode)))
    print(table(rows))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
