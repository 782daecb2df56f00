"""`rlcurric export`."""

from __future__ import annotations

from pathlib import Path

from rlcurric.cli.console import make_console

DTYPES = ("float32", "bfloat16")


def run_export(checkpoint: Path, folder: Path, dtype: str) -> int:
    """A checkpoint's model, as a folder that transformers and vLLM load."""
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    console = make_console()
    from rlcurric.eval.export import export_model

    exported = export_model(checkpoint, folder, dtype, console.print)
    console.print(
        f"{exported.parameters:,} parameters of {exported.source} as {dtype} in {folder}",
        highlight=False,
    )
    return 0
