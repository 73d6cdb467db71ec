"""Keep the libraries' progress bars and notices out of a terminal that shows our own."""

from __future__ import annotations

import logging as loggers
import os
import warnings


def quiet_libraries() -> None:
    """Silence what tells a user nothing: loading bars, notices about optional packages, deprecations."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loggers.getLogger("bitsandbytes").setLevel(loggers.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
