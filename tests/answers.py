"""Small answers for tests: values shaped like real ones, from a few words."""

from __future__ import annotations

from attr_actors.models import Action, Analysis, Attribution, Cascade, Category, Line, Recording, Requester, Snapshot


def line(number: int = 7, text: str = "RuntimeError: CUDA error: an illegal memory access was encountered", **more: object) -> Line:
    return Line(line_number=number, byte_offset=number * 80, text=text, **more)  # type: ignore[arg-type]


def attribution(action: Action = Action.STOP, signature: str | None = "cuda_oom", **more: object) -> Attribution:
    values: dict[str, object] = {
        "action": action,
        "category": Category.CUDA_OOM,
        "signature": signature,
        "owner": "user code",
        "rule": "first_primary",
        "root_cause": "CUDA ran out of memory on rank 3",
        "root_lines": (line(rank=3, node="gpu-17"),),
        "cascade": (Cascade(signature="nccl_abort", count=7, first=line(9, "NCCL watchdog: aborting")),),
        "exclude_nodes": (),
        "fingerprint": signature,
        "confidence": 0.9,
    }
    return Attribution(**{**values, **more})  # type: ignore[arg-type]


def analysis(
    path: str = "/logs/a.log", *cycles: Attribution, size: int = 4096, mtime_ns: int = 10**18, engine: str = "e1", at: float = 1e9
) -> Analysis:
    return Analysis(
        snapshot=Snapshot(path=path, size=size, mtime_ns=mtime_ns),
        engine=engine,
        cycles=cycles or (attribution(),),
        result_id="ab" * 32,
        analysed_at=at,
        scan_s=0.5,
        log_bytes=size,
    )


def recording(path: str = "/logs/a.log", *cycles: Attribution, job_id: str | None = "4711", user: str = "ada", **more: object) -> Recording:
    return Recording(analysis=analysis(path, *cycles, **more), requester=Requester(user=user, job_id=job_id, cycle_id=None))  # type: ignore[arg-type]
