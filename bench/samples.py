"""Write the sample logs that ship with the project: eight failures and a healthy run, in the shapes of real launchers.

    python -m bench.samples [DIRECTORY]

Nothing is copied from a real log; the numbers come from a seeded generator, so that the files are the same every time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "attr_actors" / "samples"
START = datetime(2026, 3, 14, 9, 0, 0)
Lines = Iterator[str]


def megatron_steps(chance: random.Random, first: int, last: int, every: int, at: datetime, step_s: float = 2.1) -> Lines:
    """Yield iteration lines as Megatron-LM prints them."""
    loss = 10.8
    for iteration in range(first, last + 1, every):
        at += timedelta(seconds=step_s * every)
        loss = max(2.1, loss * 0.985 + chance.uniform(-0.02, 0.02))
        yield (
            f" [{at:%Y-%m-%d %H:%M:%S}] iteration {iteration:8d}/  500000 | consumed samples: {iteration * 1024:12d} | "
            f"elapsed time per iteration (ms): {step_s * 1000 + chance.uniform(-30, 30):.1f} | learning rate: 1.500000E-04 | "
            f"global batch size:  1024 | lm loss: {loss:.6E} | loss scale: 1.0 | grad norm: {chance.uniform(0.3, 1.2):.3f} | "
            "number of skipped iterations:   0 | number of nan iterations:   0 |"
        )


def torchrun_banner(at: datetime) -> Lines:
    """Yield what torchrun prints first."""
    head = f"W{at:%m%d %H:%M:%S}.114000 4101 torch/distributed/run.py:793]"
    yield f"{head} "
    yield f"{head} *****************************************"
    yield f"{head} Setting OMP_NUM_THREADS environment variable for each process to be 1 in default, to avoid your system being overloaded."
    yield f"{head} *****************************************"


def torchrun_end(at: datetime, rank: int, code: int, script: str, host: str) -> Lines:
    """Yield how torchrun reports the rank that failed first."""
    agent = "torch/distributed/elastic/multiprocessing/api.py"
    for other in range(8):
        if other != rank:
            yield f"W{at:%m%d %H:%M:%S}.301000 4101 {agent}:897] Sending process {4200 + other} closing signal SIGTERM"
    failed = f"failed (exitcode: {code}) local_rank: {rank} (pid: {4200 + rank})"
    yield f"E{at:%m%d %H:%M:%S}.907000 4101 {agent}:869] {failed} of binary: /usr/bin/python3"
    yield "Traceback (most recent call last):"
    yield '  File "/usr/local/bin/torchrun", line 8, in <module>'
    yield "    sys.exit(main())"
    yield '  File "/usr/local/lib/python3.11/dist-packages/torch/distributed/launcher/api.py", line 269, in launch_agent'
    yield "    raise ChildFailedError("
    yield "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: "
    yield "=" * 60
    yield f"{script} FAILED"
    yield "-" * 60
    yield "Root Cause (first observed failure):"
    yield "[0]:"
    yield f"  time      : {at:%Y-%m-%d_%H:%M:%S}"
    yield f"  host      : {host}"
    yield f"  rank      : {rank} (local_rank: {rank})"
    yield f"  exitcode  : {code} (pid: {4200 + rank})"
    yield "  error_file: <N/A>"
    yield "=" * 60


def raised(rank: int, frames: list[tuple[str, int, str, str]], exception: str) -> Lines:
    """Yield a traceback behind the prefix of a rank."""
    yield f"[rank{rank}]: Traceback (most recent call last):"
    for file, line, function, source in frames:
        yield f'[rank{rank}]:   File "{file}", line {line}, in {function}'
        yield f"[rank{rank}]:     {source}"
    yield f"[rank{rank}]: {exception}"


PRETRAIN = "/workspace/pretrain/train.py"
TORCH = "/usr/local/lib/python3.11/dist-packages/torch"


def cuda_oom(chance: random.Random) -> Lines:
    """One rank runs out of GPU memory on a long batch."""
    yield from torchrun_banner(START)
    yield from megatron_steps(chance, 10, 400, 10, START)
    at = START + timedelta(seconds=900)
    frames = [
        (PRETRAIN, 211, "<module>", "main(parse_args())"),
        (PRETRAIN, 168, "train_step", "loss.backward()"),
        (f"{TORCH}/autograd/graph.py", 825, "_engine_run_backward", "return Variable._execution_engine.run_backward("),
    ]
    yield from raised(
        5,
        frames,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.91 GiB. GPU 5 has a total capacity of 79.11 GiB of which "
        "2.62 GiB is free. Including non-PyTorch memory, this process has 76.48 GiB memory in use. Of the allocated memory 71.20 GiB "
        "is allocated by PyTorch.",
    )
    yield from torchrun_end(at, 5, 1, PRETRAIN, "gpu-node-03")


def nccl_missing_rank(chance: random.Random) -> Lines:
    """Seven ranks wait for rank 6 in an all-reduce; rank 6 wrote nothing more."""
    yield from torchrun_banner(START)
    for rank in range(8):
        info = f"NCCL INFO comm 0x55d0c0{rank:02x} rank {rank} nranks 8 cudaDev {rank} - Init COMPLETE"
        yield f"gpu-node-03:{4200 + rank}:{5200 + rank} [{rank}] {info}"
    yield from megatron_steps(chance, 10, 300, 10, START)
    at = START + timedelta(seconds=1300)
    for rank in (0, 1, 2, 3, 4, 5, 7):
        head = f"[rank{rank}]:[E{at:%m%d %H:%M:%S}.{chance.randrange(10**9):09d}"
        yield (
            f"{head} ProcessGroupNCCL.cpp:629] [Rank {rank}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=18211, "
            f"OpType=ALLREDUCE, NumelIn=67108864, NumelOut=67108864, Timeout(ms)=600000) ran for {600_000 + chance.randrange(99)} "
            "milliseconds before timing out."
        )
        yield (
            f"{head} ProcessGroupNCCL.cpp:2168] [PG ID 0 PG GUID 0(default_pg) Rank {rank}]  failure detected by watchdog at work "
            "sequence id: 18211 PG status: last enqueued work: 18212, last completed work: 18210"
        )
        yield f"{head} ProcessGroupNCCL.cpp:681] [Rank {rank}] To avoid data inconsistency, we are taking the entire process down."
    yield "terminate called after throwing an instance of 'c10::DistBackendError'"
    yield from torchrun_end(at + timedelta(seconds=4), 0, -6, PRETRAIN, "gpu-node-03")


def xid_79(chance: random.Random) -> Lines:
    """A GPU falls off the bus under Slurm; the kernel line comes after the collapse."""
    yield "srun: job 771204 queued and waiting for resources"
    yield "srun: job 771204 has been allocated resources"
    for line in megatron_steps(chance, 20, 600, 20, START):
        yield f" 0:{line}"
    at = START + timedelta(seconds=1262)
    for rank in (8, 9, 12):
        yield f"{rank:2d}: Traceback (most recent call last):"
        yield f'{rank:2d}:   File "{PRETRAIN}", line 168, in train_step'
        yield f"{rank:2d}:     torch.cuda.synchronize()"
        error = "unspecified launch failure" if rank == 12 else "an illegal memory access was encountered"
        yield f"{rank:2d}: RuntimeError: CUDA error: {error}"
    yield "srun: error: gpu-node-17: tasks 8-15: Exited with exit code 1"
    kernel = f"{at:%b %d %H:%M:%S} gpu-node-17 kernel: NVRM:"
    yield f"{kernel} Xid (PCI:0000:c1:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    yield f"{kernel} GPU 0000:c1:00.0: GPU has fallen off the bus."
    yield "srun: Terminating StepId=771204.0"
    yield f"slurmstepd: error: *** STEP 771204.0 ON gpu-node-16 CANCELLED AT {at:%Y-%m-%dT%H:%M:%S} ***"


def disk_full(chance: random.Random) -> Lines:
    """The file system fills up while a checkpoint is written."""
    yield from torchrun_banner(START)
    yield from megatron_steps(chance, 10, 250, 10, START)
    yield "saving checkpoint at iteration     250 to /scratch/ckpt in torch_dist format"
    yield "  successfully saved checkpoint from iteration     250 to /scratch/ckpt"
    yield from megatron_steps(chance, 260, 500, 10, START + timedelta(seconds=560))
    yield "saving checkpoint at iteration     500 to /scratch/ckpt in torch_dist format"
    frames = [
        (PRETRAIN, 211, "<module>", "main(parse_args())"),
        (PRETRAIN, 190, "save_checkpoint", "torch.save(state, path)"),
        (f"{TORCH}/serialization.py", 944, "save", "_save(obj, opened_zipfile)"),
    ]
    yield from raised(0, frames, "OSError: [Errno 28] No space left on device: '/scratch/ckpt/iter_0000500/mp_rank_00/model_optim_rng.pt'")
    yield from torchrun_end(START + timedelta(seconds=1130), 0, 1, PRETRAIN, "gpu-node-08")


def missing_dataset(chance: random.Random) -> Lines:
    """A shard that the index names is not there; the loader's worker raises it."""
    yield f"{START:%Y-%m-%d %H:%M:%S},101 INFO data: index /data/web/index.json names 4096 shards"
    yield f"{START:%Y-%m-%d %H:%M:%S},480 INFO trainer: 8 loader workers, batch 256"
    yield "No checkpoint found at /runs/web-vit, training from scratch"
    yield "Traceback (most recent call last):"
    yield '  File "/home/ml/web-vit/main.py", line 77, in <module>'
    yield "    for images, labels in loader:"
    yield f'  File "{TORCH}/_utils.py", line 733, in reraise'
    yield "    raise exception"
    yield "FileNotFoundError: Caught FileNotFoundError in DataLoader worker process 3."
    yield "Original Traceback (most recent call last):"
    yield f'  File "{TORCH}/utils/data/_utils/worker.py", line 349, in _worker_loop'
    yield "    data = fetcher.fetch(index)"
    yield '  File "/home/ml/web-vit/shards.py", line 41, in __getitem__'
    yield "    with open(self.paths[shard], 'rb') as file:"
    yield "FileNotFoundError: [Errno 2] No such file or directory: '/data/web/shard-02117.tar'"


def time_limit(chance: random.Random) -> Lines:
    """The allocation ends while the run is healthy."""
    yield from megatron_steps(chance, 100, 9000, 100, START)
    at = START + timedelta(hours=5, minutes=16)
    yield f"slurmstepd: error: *** JOB 771411 ON gpu-node-21 CANCELLED AT {at:%Y-%m-%dT%H:%M:%S} DUE TO TIME LIMIT ***"
    yield "srun: Job step aborted: Waiting up to 32 seconds for job step to finish."


def nan_loss(chance: random.Random) -> Lines:
    """The loss becomes NaN and stays so."""
    loss = 2.4
    for step in range(1, 81):
        loss = loss * 0.995 + chance.uniform(-0.01, 0.02)
        shown, norm = (f"{loss:.4f}", f"{chance.uniform(0.5, 2.0):.3f}") if step < 47 else ("nan", "nan")
        at = START + timedelta(seconds=9 * step)
        yield f"{at:%Y-%m-%d %H:%M:%S} | step {step * 10} | loss: {shown} | grad_norm: {norm} | lr 6.0e-04 | 41210 tokens/s"


def user_traceback(chance: random.Random) -> Lines:
    """All ranks fail alike in the user's own code after some steps."""
    yield from torchrun_banner(START)
    yield from megatron_steps(chance, 10, 100, 10, START)
    frames = [
        (PRETRAIN, 211, "<module>", "main(parse_args())"),
        (PRETRAIN, 201, "main", "metrics.update(batch, out)"),
        ("/workspace/pretrain/metrics.py", 58, "update", "self.total += out['token_accuracy']"),
    ]
    for rank in range(8):
        yield from raised(rank, frames, "KeyError: 'token_accuracy'")
    yield from torchrun_end(START + timedelta(seconds=240), 2, 1, PRETRAIN, "gpu-node-05")


def healthy(chance: random.Random) -> Lines:
    """A run that finishes, with lines on its way that look worse than they are."""
    yield "2026-03-14 08:59:58.412 WARNING: could not find the metadata file /scratch/ckpt/latest_checkpointed_iteration.txt"
    yield "    will not load any checkpoints and will start from random"
    yield from torchrun_banner(START)
    yield "wandb: Network error (ReadTimeout), entering retry loop."
    yield from megatron_steps(chance, 50, 1500, 50, START)
    yield "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768"
    yield from megatron_steps(chance, 1550, 3000, 50, START + timedelta(seconds=3200))
    yield "  successfully saved checkpoint from iteration    3000 to /scratch/ckpt"
    yield "[after training is done] datetime: 2026-03-14 10:46:02"
    yield "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f3c11d0>"
    yield "AttributeError: 'NoneType' object has no attribute 'is_alive'"


KINDS: tuple[Callable[[random.Random], Lines], ...] = (
    cuda_oom,
    nccl_missing_rank,
    xid_79,
    disk_full,
    missing_dataset,
    time_limit,
    nan_loss,
    user_traceback,
    healthy,
)


def render_sample(kind: Callable[[random.Random], Lines]) -> str:
    """Return the text of one sample."""
    return "".join(f"{line}\n" for line in kind(random.Random(kind.__name__)))


def main() -> None:
    """Write all samples."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("directory", nargs="?", type=Path, default=SAMPLES)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (directory / f"{kind.__name__}.log").write_text(render_sample(kind), "utf-8")


if __name__ == "__main__":
    main()
