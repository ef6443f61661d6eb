"""Checks Python, packages, CPUs, memory and the limits of a process."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path, PurePosixPath

from PIL import features

from datago_gpu.config import DecodeConfig, FileSource, HttpConfig, ImageConfig, LoaderConfig
from datago_gpu.config.limits import decode_processes
from datago_gpu.config.ranks import find_local_rank, find_ranks
from datago_gpu.decoders.select import choose
from datago_gpu.decoders.threads import decoding_threads, pillow_threads
from datago_gpu.doctor.check import Check, mib
from datago_gpu.doctor.memory import MemorySum
from datago_gpu.errors import ConfigError, DatagoError
from datago_gpu.feeder import arena
from datago_gpu.system import has_memfd, usable_cpus
from datago_gpu.units import MiB

__all__ = ["checks"]

MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**60
"""Bytes. Version 1 of control groups writes a number above this one for "no limit"."""
_EXTRAS = ("cloud", "table", "zstd")
"""Extras whose packages are listed where they are installed. Other checks have those of the others."""
_FAST = (
    ("cykooz-resizer", "cykooz_resizer", "Pillow resizes instead, in 4 to 7 times the CPU time"),
    ("simplejpeg", "simplejpeg", "Pillow decodes JPEGs instead, in 10% more CPU time"),
)
"""Packages, their modules, and what happens without them."""
_WITHOUT_FAST = (
    "nothing, if DALI decodes on a GPU; else pip install cykooz-resizer simplejpeg (where there is no wheel, as of the "
    "first for Linux on aarch64, this needs compilers of Rust and C)"
)
_SPARE_FILES = 64
"""Open files needed besides downloads: of the interpreter and libraries, the socket to the feeder, hedges."""


def checks(config: LoaderConfig | None) -> Iterator[Check]:
    """Runs the checks of this module. Limits are compared with the needs of `config`, else of the defaults."""
    http = config.http_config if config else HttpConfig()
    decode = config.decode_config if config else DecodeConfig()
    needed = MemorySum.of(config or _default_config(), choose().name)
    groups = control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    yield Check.ok("python", f"{platform.python_version()} ({sys.executable}) on {platform.system()}")
    yield packages()
    yield event_loop()
    yield jpeg()
    yield image_packages()
    yield cpus(decode, cpu_quota(groups))
    yield ranks(config)
    yield memory(needed, memory_limit(groups), MEMINFO)
    yield shared_memory()
    yield memory_lock(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], on_gpu=choose().device_id is not None)
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE), http.concurrent_downloads)


def _default_config() -> LoaderConfig:
    source, image = FileSource(root_path="."), ImageConfig(crop_and_resize=True)
    return LoaderConfig(source_type="file", source_config=source, image_config=image)


def packages() -> Check:
    """Compares the installed packages with the requirements of pyproject.toml, those of `_EXTRAS` where installed."""
    here, wrong = [], []
    try:
        asked, own = metadata.requires("datago-gpu") or [], metadata.version("datago-gpu")
    except metadata.PackageNotFoundError:
        return Check.warn("packages", "datago_gpu is imported but not installed", "pip install datago_gpu")
    for line in asked:
        extra = re.search(r"extra == .([\w-]+)", line)
        if extra and extra[1] not in _EXTRAS:
            continue
        name = re.split(r"[^\w.-]", line)[0]
        lowest = re.search(r">=([\d.]+)", line)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not extra and ";" not in line:  # a package that not every platform has is checked by itself
                wrong.append(f"{name} is missing")
            continue
        here.append(f"{name} {version}")
        if lowest and _numbers(version) < _numbers(lowest[1]):
            wrong.append(f"{name} {version} is older than {lowest[1]}")
    if wrong:
        return Check.fail("packages", "; ".join(wrong), "pip install --upgrade datago_gpu")
    return Check.ok("packages", ", ".join([f"datago-gpu {own}", *here]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def event_loop() -> Check:
    try:
        import uvloop
    except ImportError as error:
        return Check.warn(
            "uvloop", f"missing ({error}): asyncio's own event loop is a third slower", "pip install uvloop"
        )
    return Check.ok("uvloop", uvloop.__version__)


def jpeg() -> Check:
    """Checks for libjpeg-turbo. Pillow's wheels have it; a Pillow built here may have the slow libjpeg."""
    if not features.check("jpg"):
        return Check.fail("libjpeg", "Pillow was built without JPEG support", "pip install --force-reinstall pillow")
    version = features.version("libjpeg_turbo")
    if version is None:
        found = f"Pillow uses libjpeg {features.version('jpg')}, which is several times slower than libjpeg-turbo"
        return Check.warn("libjpeg-turbo", found, "pip install --force-reinstall --only-binary :all: pillow")
    return Check.ok("libjpeg-turbo", f"{version} in Pillow {metadata.version('pillow')}")


def image_packages() -> Check:
    """Checks for the packages that make decoding on the CPU faster. Not every platform has wheels of them."""
    here, missing = [], []
    for name, module, instead in _FAST:
        try:
            import_module(module)
        except ImportError as error:
            missing.append(f"{name} is missing ({error}): {instead}")
        else:
            here.append(f"{name} {metadata.version(name)}")
    if missing:
        return Check.warn("image packages", "; ".join([*missing, *here]), _WITHOUT_FAST)
    return Check.ok("image packages", ", ".join(here))


def cpus(decode: DecodeConfig, quota: float | None) -> Check:
    """Checks the number of CPUs. quota: CPUs that the control group allows, or None."""
    usable = usable_cpus()
    threads = decoding_threads(decode)
    found = f"{usable} of {os.cpu_count()} may be used" + (f", for {quota:g} of their time" if quota else "")
    processes = decode_processes(decode)
    pillow = _counted(processes, "process") if processes else _counted(pillow_threads(decode), "thread")
    local = find_local_rank()
    found += f"; {local.size} processes share them ({local.size_origin})" if local.size > 1 else ""
    found += f"; to decode: {pillow} with Pillow, {_counted(threads, 'thread')} with DALI"
    allowed = min(usable, quota or usable)
    if threads > 2 * max(1.0, allowed):
        return Check.warn("CPUs", found, f"set decode_config.threads to {max(1, round(allowed))}")
    if allowed < 2:
        return Check.warn("CPUs", found, "provide at least 2 CPUs: the feeder and the decoder run at the same time")
    return Check.ok("CPUs", found)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}{'es' if word.endswith('s') else 's'}"


def ranks(config: LoaderConfig | None) -> Check:
    """Reports which share of the samples a Loader would take here, and where the numbers were found."""
    remedy = "set rank and world_size in source_config"
    source = config.source_config if config else None
    if source and source.rank is not None and source.world_size is not None:
        return Check.ok("ranks", f"rank {source.rank} of {source.world_size}, set in source_config")
    try:
        found, local = find_ranks(), find_local_rank()
    except ConfigError as error:
        return Check.fail("ranks", str(error), f"correct the variable, or {remedy}")
    if found.doubt:
        return Check.warn("ranks", found.doubt, remedy)
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if found.world_size == 1 and tasks != "1":
        alone = (
            f"rank 0 of 1, although SLURM_NTASKS is {tasks}: srun has not started this process as one of these tasks"
        )
        return Check.warn("ranks", alone, "start the training with srun or torchrun, or ignore this for one process")
    if found.origin:
        which = f"rank {found.rank} of {found.world_size}, found in {found.origin}"
        where = "" if local.rank is None else f"; local rank {local.rank} of {local.size} ({local.rank_origin})"
        return Check.ok("ranks", which + where)
    return Check.ok("ranks", "rank 0 of 1: neither a launcher nor a framework says that there are more processes")


def cpu_quota(groups: list[Path]) -> float | None:
    """Returns the number of CPUs that the control groups (version 1 or 2) allow."""
    allowed = []
    for group in groups:
        words = _read(group / "cpu.max").split()
        words = words or [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):
            allowed.append(int(words[0]) / int(words[1]))
    return min(allowed, default=None)


def memory_limit(groups: list[Path]) -> int | None:
    """Returns the bytes of memory that the control groups (version 1 or 2) allow."""
    texts = [_read(group / name) for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.isdecimal() and int(text) < _NO_LIMIT), default=None)


def control_groups(membership: Path, root: Path) -> list[Path]:
    """Returns the folders of this process's control groups and of their parents. Each of them may set a limit."""
    folders = [root, root / "cpu", root / "memory"]
    for line in _read(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in ("", "cpu", "memory"):
                path = PurePosixPath(own.lstrip("/"))
                folders += [root / controller / each for each in (path, *path.parents)]
    return list(dict.fromkeys(folders))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def memory(needed: MemorySum, limit: int | None, meminfo: Path) -> Check:
    """Compares the memory needed with the memory available. limit: bytes that the container may use."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    free = int(available[1]) * 1024 if available else None
    least = min((each for each in (limit, free) if each is not None), default=None)
    parts = needed.trainer, needed.feeder, needed.decoding, needed.shared
    trainer, feeder, decoding, shared = (mib(sum(part.values())) for part in parts)
    outside = f"{feeder} in the feeder" + (f", {decoding} in the decode processes" if needed.decoding else "")
    sizes = f"{trainer} in the trainer, {outside}, {shared} shared"
    found = f"the settings allow at most {mib(needed.total)}: {sizes}"
    found += f"; {mib(free)} are available" if free is not None else ""
    found += f"; the container's limit is {mib(limit)}" if limit is not None else ""
    if least is not None and needed.total > least * 0.8:
        return Check.warn("memory", found, "lower the settings (docs/operations/memory.md), or provide more memory")
    return Check.ok("memory", found)


def shared_memory() -> Check:
    remedy = "allow the system call memfd_create in the container's profile"
    try:
        descriptor, refused = arena.unnamed_file("datago_gpu-doctor")
        os.close(descriptor)
        memory = arena.map_memory(arena.create(MiB))
        memory[0] = 1
        memory.close()
    except (OSError, DatagoError) as error:
        return Check.fail("shared memory", f"not available ({error})", remedy)
    if refused:
        return Check.warn("shared memory", f"{refused}: temporary files are used instead", remedy)
    if not has_memfd():
        return Check.ok("shared memory", "POSIX shared memory works; threads decode, as decode processes need Linux")
    try:
        size = f" ({mib(shutil.disk_usage('/dev/shm').total)} here)"
    except OSError:
        size = ""
    return Check.ok("shared memory", f"anonymous memory (memfd) works; the size of /dev/shm{size} does not matter")


def memory_lock(limit: int, *, on_gpu: bool) -> Check:
    """Checks the limit for locked memory. limit: RLIMIT_MEMLOCK in bytes."""
    if limit == resource.RLIM_INFINITY:
        return Check.ok("memory lock", "no limit")
    if not on_gpu:
        return Check.ok("memory lock", f"{mib(limit)}; decoding on the CPU locks no memory")
    return Check.warn("memory lock", f"{mib(limit)}, and transfers to GPUs and networks lock memory",
                      "ulimit -l unlimited; docker run --ulimit memlock=-1")  # fmt: skip


def open_files(limits: tuple[int, int], downloads: int) -> Check:
    """Checks the limit for open files. limits: soft and hard RLIMIT_NOFILE."""
    soft, hard = limits
    needed = 2 * downloads + _SPARE_FILES
    found = f"{'no limit' if soft == resource.RLIM_INFINITY else soft}; {downloads} concurrent_downloads"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Check.ok("open files", found)
    remedy = f"ulimit -n {needed}" if hard == resource.RLIM_INFINITY or hard >= needed else (
        f"raise the hard limit ({hard}) to {needed}")  # fmt: skip
    remedy += ", or lower http_config.concurrent_downloads"
    if soft < downloads + _SPARE_FILES // 2:
        return Check.fail("open files", found, remedy)
    return Check.warn("open files", found, remedy)
