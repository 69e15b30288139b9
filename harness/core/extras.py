"""Name the extra of `rlrf-harness` that brings a package which is not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.core.errors import UserError

# Extra -> what Python imports of its packages; a test compares with pyproject.toml. The gate does
# without all of them.
EXTRAS = {
    "plots": ["matplotlib"],
    "overlap": ["datasketch"],
    "parquet": ["pyarrow"],
    "inspect": ["zstandard"],
    "eval": [
        *("bm25s", "datasets", "httpx2", "huggingface_hub", "lm_eval", "math_verify", "peft"),
        *("psutil", "safetensors", "scipy", "sympy", "tenacity", "tokenizers", "torch"),
        "transformers",
    ],
    "train": ["accelerate", "fsspec", "trl"],
    "vllm": ["vllm"],
    "ray": ["ray"],
    "dense": ["sentence_transformers"],
    "metrics": ["prometheus_client"],
}
PURPOSES = {
    "plots": "to draw plots",
    "overlap": "to find near-duplicates",
    "parquet": "to read Parquet files",
    "inspect": "to read compressed logs of Inspect",
    "eval": "to evaluate models, score responses and ask judges",
    "train": "to train",
    "vllm": "to generate with vLLM",
    "ray": "to use a Ray cluster",
    "dense": "to search passages by embeddings",
    "metrics": "to serve metrics",
}


@contextlib.contextmanager
def name_missing_extra(needed: str = "") -> Iterator[None]:
    """Say which extra to install if an import in the block fails for want of its package.

    `needed` is the extra that the block needs as a whole, which brings all of `eval` as well.

    Raises:
        UserError: a package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, names in EXTRAS.items() if package in names), None)
        if extra is None:
            raise
        if needed and extra == "eval":
            extra = needed
        raise UserError(
            f"{package} is not installed, which rlrf-harness needs {PURPOSES[extra]}. Install it: "
            f"pip install 'rlrf-harness[{extra}]'"
        ) from error
