"""What an exception says failed. Hold in mind: category by what failed, not by the exception's type.

The row that matched is the first word; where a row names only a type (a missing path, a lost connection, a ``ValueError``),
the message and the frames tell what the program was doing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from attr_actors.core.signatures.library import Role, Signature
from attr_actors.models import Category

Frames = Sequence[tuple[str, str]]


class Reading(NamedTuple):
    """A row with the category, action and owner that this occurrence has."""

    row: Signature
    category: Category
    action: str
    owner: str


LIBRARY_FILE = re.compile(r"site-packages|dist-packages|/lib/python\d|/lib64/python\d|<frozen |<string>|\\lib\\|/python\d\.\d+/")
ENTRY_FILE = re.compile(r"__main__|_cli\b|/cli/|/bin/|train\w*\.py|main\.py|<(?:frozen|string)")
CHECKPOINT_PATH = re.compile(
    r"(?i)ckpt|checkpoint|\.pth?\b|\.safetensors|\.bin\b.{0,20}model|global_step|model_state|optimizer|latest\b"
    r"|pretrained|weights|\.distcp|\.npz\b.{0,10}model"
)
CONFIG_PATH = re.compile(
    r"(?i)\.(?:ya?ml|toml|ini|cfg|conf|gin)\b|config[\w-]*\.json|/configs?/|\.env\b|ds_config|hostfile"
    r"|deepspeed\w*\.json|tokenizer[\w-]*\.json"
)
SCRIPT_PATH = re.compile(r"(?i)\.(?:py|sh|bash|slurm|exe)\b['\"]?\s*$")
CHECKPOINT_CODE = re.compile(
    r"(?i)load_(?:state|checkpoint|ckpt|model|weights|pretrained)|(?:resume|restore)(?:_from)?_?(?:checkpoint"
    r"|ckpt|state)?$|from_pretrained|save_(?:checkpoint|model|pretrained|state)|checkpointing\.py"
    r"|checkpoint\w*\.py|serialization\.py"
)
STATE_LOADER = re.compile(r"^_?(?:re)?(?:load|store)_(?:\w+_)?(?:state_dict|checkpoint|ckpt)$")
CHECKPOINT_KEY = re.compile(r"^KeyError: ['\"](?:\w+_)?(?:state_dict|param_groups)['\"]")
CHECKPOINT_FILE = re.compile(r"(?i)checkpoint\w*/|checkpoint\w*\.py$|serialization\.py$")
FRAMEWORK_SOURCE = re.compile(r"aten/|c10/|torch/csrc|/torch/|tensorflow/|xla/")
DATA_CODE = re.compile(
    r"(?i)data ?loader|dataset|__getitem__|collate|data/|_data\b|load_data|/datasets?/|preprocess|reader"
    r"|transforms?\.py|read_(?:csv|parquet|json|image)|imread"
)
CONFIG_CODE = re.compile(
    r"(?i)parse_args|arguments?\.py|args\.py|config\w*\.py|__post_init__|validate\w*|hparams|omegaconf|hydra"
    r"|argparse|_check_\w*config|training_args\.py|sanity_check|click/|typer/|fire/|hf_argparser"
)
HTTP_CODE = re.compile(
    r"(?i)requests/|urllib|httpx|httpcore|aiohttp|huggingface_hub|botocore|boto3|wandb|openai|hub\.py|download"
    r"|gdown|http/client|fsspec|gcsfs|s3fs|mlflow|neptune|comet"
)
URL = re.compile(r"https?://|HTTPS?ConnectionPool|host='[\w.-]+', port=|urlopen|Max retries exceeded|\burl\b", re.IGNORECASE)
DISTRIBUTED_CODE = re.compile(
    r"torch/distributed/|c10d|rendezvous|process_group|init_process_group|TCPStore|deepspeed/comm|nccl|gloo"
    r"|horovod|mpi4py|multiprocessing/(?:connection|managers)"
)
CONFIG_WORDS = re.compile(
    r"(?i)\bunknown\b|\bunsupported\b|\bnot supported\b|\bunrecogni[sz]ed\b|\binvalid (?:option|choice|value"
    r"|argument|config)|\bmissing (?:task|config|argument|option|key in config)|\bmust (?:be|specify|set"
    r"|provide)\b.{0,60}(?:config|argument|flag|option|size|parallel)"
    r"|\bconfig(?:uration)?\b|--[a-z][\w-]+|\bargument\b.{0,40}\b(?:required|missing|not)\b|\bin args\b"
    r"|\bonly \d+ GPUs?\b|\brequires? (?:at least )?\d+ GPUs?\b"
    r"|\bplease (?:set|specify|provide|pass)\b|\bset [A-Z_]{4,}=|\benvironment variable\b"
)
UNREADABLE = re.compile(
    r"(?i)(?:couldn.t|could not|cannot|can.t|failed to|unable to) (?:open|read|decode|parse|load (?:data|image|audio|video|file))\b"
)
EMPTY_MODEL = re.compile(r"(?i)partially initialized module|most likely due to a circular import")
NAN_WORD = re.compile(r"\b(?:nan|NaN|NAN)\b")


def read_exception(line: str, text: str, frames: Frames, row: Signature | None) -> Reading:
    """Return what an exception line says failed. ``text`` is the whole message, ``row`` the most specific row or None."""
    row = row or _UNKNOWN
    message = text or line
    category = row.category
    for refine in _REFINEMENTS:
        found = refine(row, message, frames)
        if found is not None:
            category = found
            break
    return Reading(row, category, _action(row, category, message), _OWNERS.get(category, row.owner))


def _file_that_is_missing(row: Signature, message: str, frames: Frames) -> Category | None:
    """A missing path is what the path is for: a checkpoint, a configuration, a script, else data."""
    if row.id != "path_missing":
        return None
    head = message[:600].split("\n")[0]
    if SCRIPT_PATH.search(head) or CONFIG_PATH.search(head):
        return Category.CONFIG
    if CHECKPOINT_PATH.search(head):
        return Category.CHECKPOINT
    if frames and CHECKPOINT_CODE.search(" ".join(frames[-1])) and not DATA_CODE.search(head):
        return Category.CHECKPOINT
    return Category.DATA


def _file_that_is_damaged(row: Signature, message: str, frames: Frames) -> Category | None:
    """The same damage is a checkpoint's or a sample's: the frames tell who read it."""
    if row.id not in ("data_eof", "ckpt_corrupt", "data_decode"):
        return None
    calls = [f"{file} {function}" for file, function in frames]
    own = " ".join(c for c in calls if not LIBRARY_FILE.search(c))
    if DATA_CODE.search(own) and not CHECKPOINT_CODE.search(own):
        return Category.DATA
    if CHECKPOINT_CODE.search(" ".join(calls)) and row.id == "data_eof":
        return Category.CHECKPOINT
    if row.id == "data_decode" and URL.search(message):
        return Category.EXTERNAL_SERVICE
    if row.id == "data_decode" and HTTP_CODE.search(" ".join(calls[-6:])):
        return Category.EXTERNAL_SERVICE
    return None


def _service_outside(row: Signature, message: str, frames: Frames) -> Category | None:
    """A connection that an HTTP client lost is an outside service, not the training network."""
    if row.id == "credentials" and HTTP_REFUSAL.search(message):
        return Category.EXTERNAL_SERVICE  # A plain download, without an account that could be mended.
    if row.id not in ("connection_lost", "name_resolution", "net_unreachable", "timeout_error", "os_error", "rendezvous"):
        return None
    calls = " ".join(f"{file} {function}" for file, function in frames)
    if DISTRIBUTED_CODE.search(calls):
        return None
    if URL.search(message) or HTTP_CODE.search(calls):
        return Category.EXTERNAL_SERVICE
    return None


def _import_of_own_code(row: Signature, message: str, frames: Frames) -> Category | None:
    """A circular import is a fault of the code, not of the environment."""
    return Category.USER_CODE if row.id == "import_error" and EMPTY_MODEL.search(message) else None


def _broken_at_import(row: Signature, message: str, frames: Frames) -> Category | None:
    """A library that fails while it is imported does not fit its surroundings; whatever its own first lines raise."""
    if row.id not in ("name_error", "value_error", "runtime_error", "any_exception") or not frames:
        return None
    file, function = frames[-1]
    outer = frames[-2] if len(frames) > 1 and function[:1].isupper() else (file, function)
    is_import = LIBRARY_FILE.search(file) and outer == (file, "<module>") and not ENTRY_FILE.search(file)
    return Category.DEPENDENCY_ENV if is_import else None


def _refused_by_configuration(row: Signature, message: str, frames: Frames) -> Category | None:
    """A check in argument or configuration code, or a message about an option, is configuration."""
    if row.id not in ("value_error", "runtime_error", "any_exception", "name_error") or row.id == "name_error":
        return None
    innermost = " ".join(frames[-1]) if frames else ""
    if CONFIG_CODE.search(innermost) or CONFIG_WORDS.search(message.split("\n")[0]):
        return Category.CONFIG
    if NAN_WORD.search(message.split("\n")[0]):
        return Category.NUMERICAL
    return None


def _input_that_cannot_be_read(row: Signature, message: str, frames: Frames) -> Category | None:
    """A generic error whose message says that something could not be opened or decoded is that thing's."""
    if row.id not in ("value_error", "runtime_error", "any_exception") or not UNREADABLE.search(message.split("\n")[0]):
        return None
    return Category.CHECKPOINT if CHECKPOINT_PATH.search(message[:600]) else Category.DATA


def _raised_while_checkpointing(row: Signature, message: str, frames: Frames) -> Category | None:
    """A generic error raised by code that loads, saves or converts checkpoints is the checkpoint's."""
    if row.id not in ("value_error", "runtime_error", "any_exception"):
        return None
    if CHECKPOINT_KEY.match(message):
        return Category.CHECKPOINT
    if not frames:
        return None
    file, function = frames[-1]
    return Category.CHECKPOINT if CHECKPOINT_FILE.search(file) or STATE_LOADER.search(function) else None


def _assertion_inside(row: Signature, message: str, frames: Frames) -> Category | None:
    """PyTorch's macro asks for a bug report from every extension that uses it; only PyTorch's own sources mean PyTorch."""
    if row.id != "internal_assert" or "INTERNAL ASSERT" not in message:
        return None
    return None if FRAMEWORK_SOURCE.search(message) else Category.USER_CODE


_REFINEMENTS: tuple[Callable[[Signature, str, Frames], Category | None], ...] = (
    _file_that_is_missing,
    _file_that_is_damaged,
    _service_outside,
    _import_of_own_code,
    _broken_at_import,
    _refused_by_configuration,
    _input_that_cannot_be_read,
    _raised_while_checkpointing,
    _assertion_inside,
)

_OWNERS = {
    Category.USER_CODE: "user code",
    Category.CONFIG: "user code",
    Category.DATA: "user code",
    Category.CUDA_OOM: "user code",
    Category.HOST_OOM: "user code",
    Category.DEPENDENCY_ENV: "user code",
    Category.EXTERNAL_SERVICE: "external",
    Category.STORAGE: "storage",
    Category.NETWORK_NCCL: "network",
    Category.SCHEDULER: "scheduler",
}
_DETERMINISTIC = frozenset(
    {Category.USER_CODE, Category.CONFIG, Category.DATA, Category.CHECKPOINT, Category.DEPENDENCY_ENV, Category.NUMERICAL}
)
CARD = re.compile(r"has a total capacity of (?P<size>[\d.]+) (?P<unit>[GM])iB")
OWN_SHARE = re.compile(r"(?:this process has|Of the allocated memory) (?P<size>[\d.]+) (?P<unit>[GM])iB (?:memory in use|is allocated)")
OTHERS_SHARE = re.compile(r"Process \d+ has (?P<size>[\d.]+) (?P<unit>[GM])iB memory in use")
HTTP_REFUSAL = re.compile(r"\bHTTPError: HTTP Error 40[134]\b")
OFFLINE = re.compile(r"Network is unreachable|\[Errno 101\]|OfflineModeIsEnabled|outgoing traffic has been disabled")


def _action(row: Signature, category: Category, message: str) -> str:
    """Return the action: a row's own, unless the category was refined into one that an unchanged restart meets again."""
    if category is Category.EXTERNAL_SERVICE and (OFFLINE.search(message) or HTTP_REFUSAL.search(message)):
        return "STOP"  # The node has no way out, or the other side will not answer: not on the next attempt either.
    if row.id == "cuda_oom" and _is_held_by_another(message):
        return "RESTART"  # The card was not free: another node's is, or this one's later.
    if row.id == "os_error" and "[Errno" in message:
        return "RESTART"  # A system call failed with a number that no row knows: no proof that it fails again.
    if category is row.category:
        return row.action
    return "STOP" if category in _DETERMINISTIC else "RESTART"


def _is_held_by_another(message: str) -> bool:
    """Tell whether PyTorch says that other processes hold most of the card, and this one next to nothing."""
    total, own = CARD.search(message), OWN_SHARE.search(message)
    if not total or not own:
        return False
    others = sum(_gib(m) for m in OTHERS_SHARE.finditer(message))
    return others >= _gib(total) / 2 and _gib(own) <= _gib(total) / 8


def _gib(found: re.Match[str]) -> float:
    return float(found["size"]) / {"G": 1, "M": 1024}[found["unit"]]


_UNKNOWN = Signature(
    id="exception",
    family="python",
    role=Role.GENERIC,
    regex="",
    example="",
    why="An exception ended the program; no row knows its type.",
    category=Category.USER_CODE,
    tier=7,
    owner="user code",
    action="STOP",
)
