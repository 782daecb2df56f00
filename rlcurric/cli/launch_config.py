"""Launch configurations, and the command that starts the ranks of one machine from one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlcurric.assets import folder
from rlcurric.registry import nearest

_KINDS = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")


@dataclass(frozen=True)
class LaunchConfig:
    """What is read here of one of accelerate's configuration files; accelerate reads the rest."""

    name: str
    path: Path
    kind: str  # accelerate's distributed_type
    on_cpu: bool
    processes: int  # on each machine
    nodes: int
    node_rank: int
    rendezvous: str | None  # HOST:PORT of the first machine


@dataclass(frozen=True)
class Place:
    """Which machines take part, and which of them this one is."""

    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    processes: int = 1  # on each machine


def shipped_configs() -> dict[str, Path]:
    """Configurations that come with the package, by name."""
    return {path.stem: path for path in sorted(folder("launch").glob("*.yaml"))}


def find_config(name: str | None) -> LaunchConfig:
    """A configuration by the name of a shipped one, or by path; ValueError for what cannot be launched."""
    shipped = shipped_configs()
    if not name:
        raise ValueError(
            f"launch needs --config NAME or FILE. Known: {', '.join(shipped)}. One process needs no launcher: "
            "`rlcurric train RECIPE`."
        )
    path = Path(name)
    if not path.is_file():
        if path.stem not in shipped or path.suffix not in ("", ".yaml") or len(path.parts) > 1:
            raise ValueError(
                f"No launch configuration {name!r}: neither a file, nor one that is shipped. "
                f"{nearest(path.stem, shipped)}"
            )
        path = shipped[path.stem]
    return _read(name, path)


def _read(name: str, path: Path) -> LaunchConfig:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The launch configuration {path} is no YAML: {error}") from None
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise ValueError(
            f"{path} is no configuration of accelerate's: it must be a mapping with distributed_type, num_processes and "
            f"more (`accelerate config` writes one). Shipped ones: {', '.join(shipped_configs())}"
        )
    kind = str(content["distributed_type"])
    if kind not in _KINDS:
        more = (
            " MULTI_CPU starts one process only unless an MPI is there: use MULTI_GPU with use_cpu: true, which starts "
            "several on gloo (cpu_2_ranks)."
            if kind == "MULTI_CPU"
            else ""
        )
        raise ValueError(
            f"{path}: distributed_type must be one of {', '.join(_KINDS)}, got {kind}.{more}"
        )
    _check_sharding(path, kind, content)
    nodes = _count(path, content, "num_machines")
    processes = _count(path, content, "num_processes")
    if processes % nodes:
        raise ValueError(
            f"{path}: num_processes must be a multiple of num_machines, got {processes} on {nodes}"
        )
    host, port = content.get("main_process_ip"), content.get("main_process_port") or 29500
    return LaunchConfig(
        name,
        path,
        kind,
        content.get("use_cpu") is True,
        processes // nodes,
        nodes,
        int(content.get("machine_rank") or 0),
        f"{host}:{port}" if host else None,
    )


def _check_sharding(path: Path, kind: str, content: dict[str, Any]) -> None:
    """What is known to go wrong silently, or deep inside a library."""
    section = content.get("deepspeed_config" if kind == "DEEPSPEED" else "fsdp_config") or {}
    if kind == "DEEPSPEED":
        steps = section.get("gradient_accumulation_steps", 1)
        if steps not in (1, "auto"):
            raise ValueError(
                f"{path}: gradient_accumulation_steps must be 1, got {steps}: how a step is cut into micro-batches is the "
                "recipe's (optim.tokens_per_microbatch)"
            )
        # accelerate would start pdsh, on every machine anew
        launcher = section.get("deepspeed_multinode_launcher", "standard")
        if launcher != "standard":
            raise ValueError(
                f"{path}: deepspeed_multinode_launcher must be standard, got {launcher}: every machine runs a launcher"
            )
    if kind == "FSDP":
        if section.get("fsdp_version") != 2:
            raise ValueError(
                f"{path}: fsdp_config.fsdp_version must be 2, got {section.get('fsdp_version', 1)}"
            )
        if section.get("fsdp_cpu_ram_efficient_loading", True):
            raise ValueError(
                f"{path}: fsdp_config.fsdp_cpu_ram_efficient_loading must be false (accelerate's default is true): it "
                "gives all ranks but the first empty weights, and every rank here reads the model itself"
            )


def _count(path: Path, content: dict[str, Any], key: str) -> int:
    value = content.get(key, 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: {key} must be a whole number of at least 1, got {value!r}")
    return value


def place(
    config: LaunchConfig,
    processes: int | None,
    nodes: int | None,
    node_rank: int | None,
    rendezvous: str | None,
) -> Place:
    """Where the ranks are, from the command line over the configuration."""
    count = nodes or config.nodes
    each = processes or config.processes
    if config.kind == "NO" and (count > 1 or each > 1):
        raise ValueError(
            f"The launch configuration {config.name} is for one process (distributed_type NO). For several take one of "
            f"{', '.join(name for name in shipped_configs() if name != config.name)}"
        )
    rank = config.node_rank if node_rank is None and nodes in (None, config.nodes) else node_rank
    where = rendezvous or config.rendezvous
    if count == 1:
        if rank not in (None, 0) or rendezvous is not None:
            raise ValueError(
                "--node-rank and --rendezvous are for several machines: give --nodes N"
            )
        return Place(processes=each)
    if rank is None or where is None:
        raise ValueError(
            f"{count} machines need --node-rank (0 to {count - 1}, another on each machine) and --rendezvous HOST:PORT "
            "(of machine 0, the same on all). Under Slurm, --slurm writes both."
        )
    if not 0 <= rank < count:
        raise ValueError(f"--node-rank must lie between 0 and {count - 1}, got {rank}")
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--rendezvous must be HOST:PORT, got {where!r}")
    return Place(count, rank, where, each)


def accelerate_arguments(config: LaunchConfig, at: Place, command: Sequence[str]) -> list[str]:
    """The arguments of `accelerate launch`."""
    args = ["--config_file", str(config.path)]
    if at.nodes > 1:
        assert at.rendezvous is not None
        host, _, port = at.rendezvous.rpartition(":")
        args += ["--num_machines", str(at.nodes), "--machine_rank", str(at.node_rank)]
        args += ["--main_process_ip", host, "--main_process_port", port]
    elif config.nodes > 1:
        args += ["--num_machines", "1", "--machine_rank", "0"]
    if at.nodes != config.nodes or at.nodes > 1 or at.processes != config.processes:
        args += ["--num_processes", str(at.nodes * at.processes)]
    return [*args, "-m", "rlcurric", *command]


def environment(config: LaunchConfig) -> dict[str, str]:
    """Variables for the ranks beside those that accelerate sets: on the CPU, GPUs are hidden."""
    if not config.on_cpu:
        return {}
    more = {"DS_ACCELERATOR": "cpu"} if config.kind == "DEEPSPEED" else {}
    return {"CUDA_VISIBLE_DEVICES": "", **more}


def spelled(config: LaunchConfig, at: Place, command: Sequence[str]) -> str:
    """The command as a shell would take it."""
    set_first = [f"{name}={shlex.quote(value)}" for name, value in environment(config).items()]
    words = ["accelerate", "launch", *accelerate_arguments(config, at, command)]
    return " ".join([*set_first, shlex.join(words)])
