"""How fast a network is trained: hapredict against its own floor, `fit`, PyTorch, JAX and others.

    make bench-train

Each variant is a process of its own that trains the network of `train_task.py` on one core and one
thread. They take turns, an epoch each, so that a busy moment of the machine hits all alike; the
figure is the median over rounds of rows a second of processor time, all threads counted. Then
`train_quality.py` trains on real flights until a loss is reached. ROUNDS sets the rounds; names of
variants as arguments measure these alone.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
FLOOR, FLOOR_BF16 = "floor", "floor-bf16"


@dataclass
class Variant:
    """A line of the table and the processes behind it."""

    name: str
    title: str
    floor: str = FLOOR
    script: str = "train_ours.py"
    workers: int = 1
    apart: bool = False
    """Runs in the environment of the peers."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def rows_a_cpu_s(self) -> float:
        return statistics.median(turn["rows"] / turn["cpu_s"] for turn in self.turns)

    @property
    def rows_a_wall_s(self) -> float:
        return statistics.median(turn["rows"] / turn["wall_s"] for turn in self.turns)


def peer(name: str, title: str, floor: str = FLOOR, *, apart: bool = False) -> Variant:
    return Variant(name, title, floor, "train_peers.py", apart=apart)


VARIANTS = (
    Variant("floor", "floor: the products alone, TensorFlow"),
    Variant("floor-bf16", "floor: bfloat16 products", FLOOR_BF16),
    peer("numpy-floor", "floor: the products alone, NumPy"),
    Variant("hapredict", "hapredict"),
    Variant("hapredict-bf16", "hapredict, bfloat16", FLOOR_BF16),
    Variant("hapredict", "two workers on a core each", workers=2),
    Variant("hapredict-bf16", "two workers, bfloat16", FLOOR_BF16, workers=2),
    peer("keras-defaults", "Keras fit, defaults (32 rows a step)"),
    peer("keras-tuned", "Keras fit, tuned"),
    peer("keras-tuned-bf16", "Keras fit, tuned, mixed_bfloat16", FLOOR_BF16),
    peer("jax", "Keras fit on JAX, tuned", apart=True),
    peer("torch", "PyTorch", apart=True),
    peer("torch-bf16", "PyTorch, bfloat16 autocast", FLOOR_BF16, apart=True),
    peer("torch-compile", "PyTorch, torch.compile", apart=True),
    peer("torch-compile-bf16", "PyTorch, torch.compile, bfloat16", FLOOR_BF16, apart=True),
    peer("sklearn", "scikit-learn MLPRegressor, no embeddings", apart=True),
    Variant("mlp", "default mlp (its own network)"),
    Variant("mlp-bf16", "default mlp, bfloat16", FLOOR_BF16),
)


def main() -> None:
    """Print the tables."""
    cores = sorted(os.sched_getaffinity(0))
    wanted = sys.argv[1:]
    chosen = [
        variant
        for variant in VARIANTS
        if variant.workers <= len(cores) and (not wanted or variant.name in wanted)
    ]
    if not chosen:
        raise SystemExit(f"{wanted} names no variant; they are {[v.name for v in VARIANTS]}")
    for variant in chosen:
        _start(variant, cores)
        print(f"started: {variant.title}", file=sys.stderr)
    for turn in range(ROUNDS):
        for variant in chosen:
            if variant.processes and (took := _take_turn(variant)):
                variant.turns.append(took)
        print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    for variant in chosen:
        _end(variant)
    _print([variant for variant in chosen if variant.turns])
    if not wanted:
        subprocess.run([sys.executable, str(HERE / "train_quality.py")], check=True)


def _start(variant: Variant, cores: list[int]) -> None:
    """Starts and warms up. A variant that cannot run here says so and is left out."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "jax" if variant.name.startswith("jax") else "tensorflow",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    if variant.workers > 1:
        addresses = [f"127.0.0.1:{_free_port()}" for _ in range(variant.workers)]
    for rank in range(variant.workers):
        if variant.workers > 1:
            task = {"type": "worker", "index": rank}
            told = {"cluster": {"worker": addresses}, "task": task}
            environment["TF_CONFIG"] = json.dumps(told)
        python = PEERS_PYTHON if variant.apart else sys.executable
        core = cores[rank - 1] if variant.workers > 1 else cores[-1]
        command = [str(python), str(HERE / variant.script), variant.name, str(core)]
        variant.processes.append(
            subprocess.Popen(
                [*command, str(rank), str(variant.workers)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    if _report(variant) is None:
        print(f"left out, does not run here: {variant.title} ({variant.name})")


def _take_turn(variant: Variant) -> dict[str, Any] | None:
    for process in variant.processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return _report(variant)


def _report(variant: Variant) -> dict[str, Any] | None:
    """Workers share the rows: their times on the processor add up, those on the wall do not."""
    lines = [process.stdout.readline() for process in variant.processes]
    if not all(lines):
        _end(variant)
        return None
    parts = [json.loads(line) for line in lines]
    return {
        **parts[0],
        "cpu_s": sum(part["cpu_s"] for part in parts),
        "wall_s": max(part["wall_s"] for part in parts),
    }


def _end(variant: Variant) -> None:
    for process in variant.processes:
        process.stdin.close()
        process.wait()
    variant.processes.clear()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _print(variants: list[Variant]) -> None:
    known = {(variant.name, variant.workers): variant for variant in variants}
    tuned = known.get(("keras-tuned", 1))
    print(f"\nRows a second of processor time, medians of {ROUNDS} turns in turn\n")
    print("| variant | rows / CPU-s | of its floor | x tuned fit | rows / wall-s |")
    print("|---|---|---|---|---|")
    for variant in variants:
        floor, own = known.get((variant.floor, 1)), variant.name.startswith("mlp")
        share = f"{variant.rows_a_cpu_s / floor.rows_a_cpu_s:.0%}" if floor and not own else ""
        gain = f"{variant.rows_a_cpu_s / tuned.rows_a_cpu_s:.2f}" if tuned and not own else ""
        print(
            f"| {variant.title} | {variant.rows_a_cpu_s:,.0f} | {share} | {gain} "
            f"| {variant.rows_a_wall_s:,.0f} |"
        )
    for variant in variants:
        if note := variant.turns[0]["note"]:
            print(f"{variant.title}: {note}")
    for name in ("hapredict", "hapredict-bf16"):
        one, two = known.get((name, 1)), known.get((name, 2))
        if one and two:
            pace = two.rows_a_wall_s / one.rows_a_wall_s
            # what the wall would show if nobody else used the cores and nobody waited
            most = 2 * two.rows_a_cpu_s / one.rows_a_cpu_s
            print(f"{name}: two workers {pace:.2f} x one on the wall; by processor time {most:.2f}")


if __name__ == "__main__":
    main()
