"""A generator of Megatron-style training logs: any size, seeded, streamed to disk.

Hold in mind: the shape is what costs a scanner time. Merged output of many ranks, NCCL lines at the start, one iteration line per
step among timer lines, a warning now and then, checkpoints, and at the end one GPU error with its cascade on all other ranks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

RANKS = 512
GPUS = 8
ITERATIONS_PER_CHECKPOINT = 500
WRITE_BYTES = 1 << 20
ROOT_RANK = 37


def write_megatron_log(path: Path, size: int, seed: int = 1) -> int:
    """Write a log of about ``size`` bytes that ends in a failure; return its exact size. Keeps a file of the right size and seed."""
    stamp = path.with_suffix(".stamp")
    wanted = f"{size} {seed} 3"
    if path.exists() and stamp.exists() and stamp.read_text() == wanted:
        return path.stat().st_size
    written, pending, held = 0, list[str](), 0
    rng = random.Random(seed)
    ending = list(_cascade(rng))
    room = size - sum(len(line) for line in ending)
    with path.open("w", encoding="utf-8", newline="") as file:
        for line in _run(rng):
            pending.append(line)
            held += len(line)
            if held >= WRITE_BYTES or written + held >= room:
                written += file.write("".join(pending))
                pending, held = [], 0
                if written >= room:
                    break
        file.write("".join(ending))
    stamp.write_text(wanted)
    return path.stat().st_size


def _node(rank: int) -> str:
    return f"gpu{rank // GPUS:04d}"


def _run(rng: random.Random) -> Iterator[str]:
    yield from _start(rng)
    iteration = 0
    while True:
        iteration += 1
        yield from _iteration(rng, iteration)
        if iteration % ITERATIONS_PER_CHECKPOINT == 0:
            yield f"saving checkpoint at iteration {iteration:7d} to /lustre/checkpoints/run in torch_dist format\n"
            yield f"  successfully saved checkpoint from iteration {iteration:7d} to /lustre/checkpoints/run [ t 1/8, p 1/4 ]\n"


def _start(rng: random.Random) -> Iterator[str]:
    yield "+ srun --nodes=64 --ntasks-per-node=8 python pretrain_gpt.py --tensor-model-parallel-size 8\n"
    yield "using world size: 512, data-parallel size: 16, tensor-model-parallel size: 8, pipeline-model-parallel size: 4\n"
    yield "------------------------ arguments ------------------------\n"
    for name in (
        "adam_beta1",
        "attention_dropout",
        "bf16",
        "check_for_nan_in_loss_and_grad",
        "distributed_timeout_minutes",
        "exit_interval",
    ):
        yield f"  {name} {'.' * (48 - len(name))} {rng.randrange(100)}\n"
    yield "-------------------- end of arguments ---------------------\n"
    for rank in range(RANKS):
        for channel in range(4):
            peer = (rank + 1) % RANKS
            head = f"{_node(rank)}:{30000 + rank}:{31000 + rank} [{rank % GPUS}] NCCL INFO"
            yield f"{head} Channel {channel:02d}/0 : {rank}[{rank % GPUS}] -> {peer}[{peer % GPUS}] [send] via NET/IB/{rank % GPUS}/GDRDMA\n"
        yield f"{rank}: /opt/megatron/core/tensor_parallel/layers.py:{rng.randrange(900)}: UserWarning: async grad allreduce needs CUDA_DEVICE_MAX_CONNECTIONS=1\n"


def _iteration(rng: random.Random, iteration: int) -> Iterator[str]:
    uniform = rng.random
    yield (
        f" [2026-03-0{iteration // 86400 % 9 + 1} {iteration // 3600 % 24:02d}:{iteration // 60 % 60:02d}:{iteration % 60:02d}] iteration {iteration:8d}/ 1000000 | "
        f"consumed samples: {iteration * 1024:12d} | elapsed time per iteration (ms): {5000 + 50 * uniform():.1f} | throughput per GPU (TFLOP/s/GPU): "
        f"{400 + 9 * uniform():.1f} | learning rate: {1.5e-4 * uniform():.6E} | global batch size:  1024 | lm loss: {1.5 + uniform():.6E} | loss scale: 1.0 | "
        f"grad norm: {uniform():.3f} | num zeros: 0.0 | params norm: {900 + uniform():.3f} | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    )
    for rank in rng.sample(range(RANKS), 3):
        yield f"[default{rank % GPUS}]:[Rank {rank}] (after {iteration} iterations) memory (MB) | allocated: {30000 + 9 * uniform():.2f} | max allocated: 61234.55 | reserved: 70000.0\n"
    yield "(min, max) time across ranks (ms):\n"
    for name in ("forward-backward", "params-all-gather", "optimizer"):
        yield f"    {name} {'.' * (40 - len(name))}: ({4000 + 90 * uniform():.2f}, {4100 + 90 * uniform():.2f})\n"
    if uniform() < 0.02:
        rank = rng.randrange(RANKS)
        yield f"{rank}: [W{iteration % 1000:03d} reducer.cpp:1346] Warning: find_unused_parameters=True was specified, but no unused parameters were found.\n"
    if uniform() < 0.001:
        rank = rng.randrange(RANKS)
        yield f"{_node(rank)}:{30000 + rank}:{31000 + rank} [{rank % GPUS}] NCCL INFO comm 0x{rng.getrandbits(44):x} rank {rank} nranks 512 - Init COMPLETE\n"


def _cascade(rng: random.Random) -> Iterator[str]:
    bad = f"[rank{ROOT_RANK}]:"
    yield f"{bad} Traceback (most recent call last):\n"
    yield f'{bad}   File "/opt/megatron/training/training.py", line 1183, in train_step\n'
    yield f"{bad}     losses_reduced = forward_backward_func(forward_step_func=forward_step_func)\n"
    yield f"{bad} RuntimeError: CUDA error: uncorrectable ECC error encountered\n"
    yield f"{_node(ROOT_RANK)} kernel: NVRM: Xid (PCI:0000:9b:00): 48, pid=30037, name=python, Ctx 00000010, DBE (double bit error)\n"
    for rank in range(RANKS):
        if rank == ROOT_RANK:
            continue
        work = f"WorkNCCL(SeqNum=190723, OpType=ALLREDUCE, NumelIn=4096, NumelOut=4096, Timeout(ms)=600000) ran for {600000 + rng.randrange(900)} milliseconds"
        yield f"[rank{rank}]:[E305 04:10:0{rank % 9}.{rank:06d} ProcessGroupNCCL.cpp:616] [Rank {rank}] Watchdog caught collective operation timeout: {work} before timing out.\n"
        yield f"[rank{rank}]: RuntimeError: NCCL communicator was aborted on rank {rank}.\n"
    yield f"torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \npretrain_gpt.py FAILED\nRoot Cause (first observed failure):\n  rank      : {ROOT_RANK}\n"
    for node in range(RANKS // GPUS):
        yield f"srun: error: gpu{node:04d}: tasks {node * GPUS}-{node * GPUS + 7}: Exited with exit code 1\n"
