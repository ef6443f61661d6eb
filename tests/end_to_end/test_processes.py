"""Trainers that are killed, interrupted, forked or left to themselves: real ones, and what is left of them in /proc."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs
from tests.support.patience import quickest
from tests.support.servers import Answer, MisbehavingServer

REPOSITORY = Path(__file__).parents[2]
WAIT_S = 20
ARENA = "memfd:datago_gpu-arena"
KEY = "5ecret5ecret5ecret5ecret5ecret5ecret5ecr"

BEGIN = """
import contextlib, gc, os, re, signal, sys, threading, time
from pathlib import Path
from datago_gpu import DatagoError, Loader
from tests.support.images import file_config

def say(*words):
    print(*words, flush=True)

def held():
    "The process, shared memory and sockets of a loader."
    maps = Path("/proc/self/maps").read_text().splitlines()
    memory = {line.split()[4] for line in maps if "datago_gpu-arena" in line}
    links = [os.readlink(entry) for entry in map("/proc/self/fd/{}".format, range(64)) if os.path.lexists(entry)]
    sockets = [link[8:-1] for link in links if link.startswith("socket:")]
    say("held", loader.feeder_pid, ",".join(memory), ",".join(sockets))

def stop(child):
    "Returns once the process has stopped: one that is about to would miss that its parent is gone."
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT)

root = sys.argv[1]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    add_pictures(root, [SHAPES[number % 3] for number in range(24)])
    return root


@contextlib.contextmanager
def trainer(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python of its own that runs this, in a session of its own; it and its forks are gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def line_of(process: subprocess.Popen[str]) -> list[str]:
    """The words of the next line that it prints."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words, process.stderr and process.stderr.read()
    return words


def finish(code: str, *arguments: object) -> str:
    """Run to the end, which must be a good one without a word on stderr; what it printed."""
    with trainer(code, *arguments) as process:
        out, err = process.communicate(timeout=WAIT_S * 2)
    assert (process.returncode, err) == (0, "")
    return out


def wait_for_end(pid: int) -> None:
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([ended], [], [], WAIT_S)[0], f"process {pid} goes on"
    finally:
        os.close(ended)


def holders_of(inodes: set[str]) -> list[int]:
    """Processes that have this shared memory mapped."""
    found = []
    for process in psutil.process_iter():
        try:
            lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        except OSError:
            continue
        if any(ARENA in line and line.split()[4] in inodes for line in lines):
            found.append(process.pid)
    return found


LOOP = """
loader = Loader(file_config(root, epochs=None), device="cpu")
batches = [next(loader) for _ in range(3)]
def take():
    with contextlib.suppress(Exception):
        list(loader)
"""

ENDS = {
    "killed": LOOP + "held(); signal.pause()",
    "killed, its feeder stopped": LOOP + "stop(loader.feeder_pid); held(); signal.pause()",
    "killed, a fork left": LOOP + "if not os.fork(): signal.pause()\nheld(); signal.pause()",
    "killed at once": "loader = Loader(file_config(root), device='cpu'); held(); signal.pause()",
    "killed at once, a fork left": "loader = Loader(file_config(root), device='cpu')\n"
    "if not os.fork(): signal.pause()\nheld(); signal.pause()",
    "interrupted": LOOP + "held()\nfor batch in loader: pass",
    "an exception": LOOP + "held()\nfor batch in loader: raise RuntimeError('of the training step')",
    "at exit": LOOP + "held()",
    "at exit, in a cycle": LOOP + "held(); cycle = [loader]; cycle.append(cycle); del loader",
    "at exit, beside a thread": LOOP + "held(); threading.Thread(target=take, daemon=True).start()",
    "sys.exit": LOOP + "held(); sys.exit(3)",
    "os._exit": LOOP + "held(); os._exit(4)",
}
CODES = {"interrupted": -signal.SIGINT, "an exception": 1, "sys.exit": 3, "os._exit": 4}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_trainer_however_it_ends(root: Path, how: str) -> None:
    with trainer(ENDS[how], root) as process:
        _, feeder, memory, sockets = line_of(process)
        inodes = set(memory.split(","))
        assert inodes
        forks = [each for each in psutil.Process(process.pid).children() if each.pid != int(feeder)]
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
        elif how.startswith("killed"):
            process.kill()
        _, err = process.communicate(timeout=WAIT_S) if not forks else (process.wait(WAIT_S), "")
        wait_for_end(int(feeder))
        for fork in forks:  # it has what it inherited, until its end
            fork.kill()
            wait_for_end(fork.pid)
    assert process.returncode == (-signal.SIGKILL if how.startswith("killed") else CODES.get(how, 0))
    expected = {"interrupted": "KeyboardInterrupt", "an exception": "RuntimeError: of the training step"}.get(how)
    assert (err.splitlines()[-1] == expected) if expected else not err
    for holder in holders_of(inodes):  # killed together with the feeder, and not yet gone on a busy machine
        wait_for_end(holder)
    assert holders_of(inodes) == []
    left = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    assert not left & set(sockets.split(","))


CTRL_C = """
config = dict(source_type="db", source_config=dict(api_url=sys.argv[1], api_key=sys.argv[2], check_count=False))
loader = Loader(config, device="cpu")
feeder = loader.feeder_pid
say("ready")
try:
    next(loader)
except KeyboardInterrupt:
    at = time.monotonic()
    alive = Path(f"/proc/{feeder}").exists()
    loader.close()
    say(at, time.monotonic() - at, alive, len(threading.enumerate()), Path(f"/proc/{feeder}").exists())
"""


def test_ctrl_c_reaches_a_loop_that_waits_for_a_silent_server_at_once() -> None:
    assert quickest(lambda: max(seconds_of_ctrl_c()), 1) < 1


def seconds_of_ctrl_c() -> tuple[float, float]:
    """Until the loop was interrupted, and then to close."""
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(silent=True))
        with trainer(CTRL_C, f"{server.url}/api/", KEY) as process:
            line_of(process)
            assert server.asked.wait(WAIT_S)
            sent = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            at, close_s, feeder_before, threads, feeder_after = line_of(process)
            _, err = process.communicate(timeout=WAIT_S)
    assert (feeder_before, threads, feeder_after) == ("True", "1", "False")
    assert (process.returncode, err) == (0, "")
    return float(at) - sent, float(close_s)


FORK = """
loader = Loader(file_config(root, epochs=2, samples_buffer_size=1), device="cpu")
names = list(next(loader).ids)
lock_held = threading.Thread(target=lambda: loader._taking.acquire()) if sys.argv[2] == "locked" else None
if lock_held: lock_held.start(); lock_held.join()
child = os.fork()
if not child:
    for use in (lambda: next(loader), lambda: next(loader.samples()), lambda: loader.load_state_dict(state)):
        try:
            use()
            say("worked")
        except DatagoError as error:
            say(error)
        except NameError:
            pass
    loader.state_dict(), loader.stats()
    loader.close()
    sys.exit(7)
say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if lock_held: loader._taking.release()
for batch in loader:
    names += batch.ids
say(len(names), len(set(names)), loader.stats().delivered)
loader.close()
"""


@pytest.mark.parametrize("how", ["free", "locked"])
def test_a_fork_is_refused_and_does_no_harm_to_the_loader(root: Path, how: str) -> None:
    """Its exit runs what is to be done at exit, with the sockets of the trainer in its hands."""
    first, second, child, end = finish(FORK, root, how).splitlines()
    assert (
        first == second == "this Loader was created in another process: create it in the process that iterates over it"
    )
    assert (child, end) == ("child 7", "48 24 48")


WORKER = """
import multiprocessing

def work(root, queue):
    with Loader(file_config(root), device="cpu") as loader:
        queue.put(sum(map(len, loader)))

def leave(root, queue):
    loader = Loader(file_config(root, epochs=None), device="cpu")
    next(loader)
    queue.put(loader.feeder_pid)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    queue = context.SimpleQueue()
    with Loader(file_config(root), device="cpu") as loader:
        try:
            context.Process(target=list, args=[loader]).start() if sys.argv[2] == "spawn" else loader.__reduce__()
        except DatagoError as error:
            say(error)
        for target in (work, leave):
            worker = context.Process(target=target, args=(root, queue), daemon=True)
            worker.start()
            say(queue.get())
            worker.join()
            say(worker.exitcode)
        say(sum(map(len, loader)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_makes_its_own_loader(root: Path, tmp_path: Path, method: str) -> None:
    """As a worker of torch's DataLoader does. One that is sent there is refused."""
    script = tmp_path / "train.py"
    script.write_text(BEGIN + WORKER)
    done = subprocess.run(
        [sys.executable, script, root, method],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused, delivered, first, feeder, second, ours = done.stdout.splitlines()
    assert refused == "a Loader cannot be sent to another process: create it in the process that iterates over it"
    assert (delivered, first, second, ours) == ("24", "0", "0", "24")
    wait_for_end(int(feeder))


def test_a_worker_of_torch_makes_its_own_loader(root: Path) -> None:
    torch = needs("torch")
    code = """
import torch
class Images(torch.utils.data.IterableDataset):
    def __iter__(self):
        with Loader(file_config(root), device="cpu") as loader:
            for batch in loader:
                yield torch.from_dlpack(batch.image), batch.ids
names = [name for _, ids in torch.utils.data.DataLoader(Images(), batch_size=None, num_workers=1) for name in ids]
say(len(names), len(set(names)))
"""
    assert torch.__version__
    assert finish(code, root) == "24 24\n"


CYCLES = """
import psutil
config, me = file_config(root), psutil.Process()

def cycle(take):
    global loader
    loader = Loader(config, device="cpu")
    if take: next(loader)
    loader.close()

def figures():
    gc.collect()
    arenas = Path("/proc/self/maps").read_text().count("datago_gpu-arena")
    return threading.active_count(), me.num_fds(), len(me.children()), arenas, me.memory_info().rss

for number in range(12): cycle(number % 4 == 0)
del loader
before = figures()
for number in range(100): cycle(number % 10 == 0)
del loader
after = figures()
say(*before[:4], *after[:4], (after[4] - before[4]) / 2**20)
"""


def test_a_hundred_loaders_one_after_the_other_leave_nothing(root: Path) -> None:
    *counts, growth_mb = finish(CYCLES, root).split()
    assert counts[:4] == counts[4:]
    assert counts[2:4] == ["0", "0"]
    assert float(growth_mb) < 4


FULL_DISK = """
import logging
handler = logging.FileHandler("/dev/full")
logging.getLogger("datago_gpu").addHandler(handler)
with Loader(file_config(root), device="cpu") as loader:
    say(sum(map(len, loader)), loader.stats().skipped)
logging.getLogger("datago_gpu").removeHandler(handler)
try: handler.close()
except OSError: say("the disk was full")
"""


@pytest.mark.parametrize("stderr", ["/dev/null", "/dev/full"])
def test_a_full_disk_for_logs_does_not_stop_a_run(tmp_path: Path, stderr: str) -> None:
    names = add_pictures(tmp_path, SHAPES * 3)
    (tmp_path / names[4]).write_bytes(b"no image")
    with open(stderr, "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + FULL_DISK, tmp_path],
            stdout=subprocess.PIPE,
            stderr=full,
            cwd=REPOSITORY,
            text=True,
            timeout=WAIT_S * 2,
        )
    assert done.stdout.splitlines() == ["8 {'unknown-format': 1}", "the disk was full"]


NO_DESCRIPTORS = """
import resource
from datago_gpu import FeederError
source = {"api_url": "http://127.0.0.1:9/api/", "api_key": "k"}  # it is not asked
config = {"source_config": source, "http_config": {"download_processes": int(sys.argv[1])}}
loader = Loader(config, device="cpu")
loader.close()
before = os.listdir("/proc/self/fd")  # one of them is its own
for more in range(18 + 6 * int(sys.argv[1])):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + more, 4096))
    try:
        loader = Loader(config, device="cpu")
        loader.close()
        say("started")
    except FeederError as error:
        say(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    assert os.listdir("/proc/self/fd") == before
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_a_feeder_that_cannot_be_started_is_a_clear_error_and_leaves_nothing(processes: int) -> None:
    """Nor do those that download for it."""
    *failed, started = finish(NO_DESCRIPTORS, processes).splitlines()
    assert started == "started"
    told = re.compile(
        r"the (feeder process|decode processes) cannot be started: \[Errno 24\] Too many open files(: '/dev/null')?"
    )
    assert all(told.fullmatch(line) or line == "started" for line in failed)
    assert len([line for line in failed if line != "started"]) >= 3 + 3 * processes


def test_a_feeder_says_where_it_is_out_of_memory(tmp_path: Path) -> None:
    """Its address space is limited to what it has by then; a larger file comes later."""
    add_pictures(tmp_path, [(40, 40)] * 40)
    from PIL import Image

    Image.effect_noise((3000, 3000), 99).save(tmp_path / "large.png", compress_level=0)
    code = """
import psutil, resource
from datago_gpu import FeederError
config = file_config(root, samples_buffer_size=1, prefetch_buffer_size=4, http=dict(max_payload_mb=16), arena_mb=32)
with Loader(config, device="cpu") as loader:
    names = list(next(loader).ids)
    limit = psutil.Process(loader.feeder_pid).memory_info().vms
    resource.prlimit(loader.feeder_pid, resource.RLIMIT_AS, (limit, limit))
    try:
        for batch in loader: names += batch.ids
    except FeederError as error:
        say(len(names), str(error).splitlines()[0], str(error).splitlines()[-1])
"""
    assert finish(code, tmp_path) == "40 the feeder process is out of memory: MemoryError\n"


LARGE = """
import psutil, resource
from datago_gpu.errors import FeederError
config = file_config(
    root, samples_buffer_size=1, prefetch_buffer_size=4, arena_mb=256, image=dict(crop_and_resize=False),
    decode_config=dict(processes={processes}),
)
names = []
with Loader(config, device="cpu", backend="pillow") as loader:
    try:
        for batch in loader:
            if not names:
                pid = {whose}
                limit = psutil.Process(pid).memory_info().vms + 40 * 2**20
                resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
            names += batch.ids
    except DatagoError as error:
        say(len(names), type(error).__name__, str(error).splitlines()[0])
    say(loader.stats().skipped)
"""
"""Runs into its limit with a picture of 36 million pixels, of one color, in a small file."""


@pytest.mark.parametrize(
    ("whose", "processes", "mode", "expected"),
    [
        ("loader.feeder_pid", 0, "I;16", "40 FeederError the feeder process is out of memory:\n{}\n"),
        ("os.getpid()", 0, "RGB", "40 DatagoError out of memory while decoding: "),
        ("loader.decode_pids[0]", 1, "RGB", "40 DatagoError out of memory while decoding: "),
    ],
    ids=["feeder", "trainer", "decode process"],
)
def test_a_lack_of_memory_in_pillow_is_not_the_images_fault(
    tmp_path: Path, whose: str, processes: int, mode: str, expected: str
) -> None:
    """16 bits a channel are decoded in the feeder, others in the trainer or in a decode process."""
    from PIL import Image

    add_pictures(tmp_path, [(40, 40)] * 39)
    Image.new("I;16", (40, 40)).save(tmp_path / "0.png")  # so that the feeder has loaded Pillow
    Image.new(mode, (6000, 6000), 0).save(tmp_path / "large.png")
    out = finish(LARGE.format(whose=whose, processes=processes), tmp_path)
    assert out.startswith(expected)
    assert out.endswith("\n{}\n")


OUTLIVES = """
def train():
    with Loader(file_config(root, epochs=3, samples_buffer_size=1), device="cpu", backend="pillow") as loader:
        names = list(next(loader).ids)
        first.set()
        threading.main_thread().join()
        for batch in loader: names += batch.ids
    say(len(names), len(set(names)))

first = threading.Event()
threading.Thread(target=train).start()
assert first.wait(20)
"""


def test_a_training_loop_may_outlive_the_main_thread(root: Path) -> None:
    assert finish(OUTLIVES, root) == "72 24\n"


def test_a_feeder_without_memory_from_the_start_is_an_error_or_another_takes_over(root: Path) -> None:
    code = """
import resource
from datago_gpu import FeederError
with Loader(file_config(root), device="cpu") as loader:
    resource.prlimit(loader.feeder_pid, resource.RLIMIT_AS, (2**20, 2**20))
    try:
        say(sum(map(len, loader)))
    except FeederError as error:
        say("error:", str(error).splitlines()[0])
"""
    out = finish(code, root)
    assert out == "24\n" or re.match(r"error: the feeder process (ended with status \d+; its last output|failed):", out)


@pytest.mark.parametrize("ahead", ["prefetch_buffer_size=16", "prefetch_buffer_size=1000, prefetch_memory_mb=2"])
def test_memory_stays_bounded_beside_a_slow_trainer(tmp_path: Path, ahead: str) -> None:
    """The feeder falls asleep with what its settings allow, and reads no further."""
    from PIL import Image

    for number in range(20):
        Image.effect_noise((400, 400), 90).save(tmp_path / f"{number}.png", compress_level=0)
    code = f"""
import psutil
from tests.support.patience import rest
config = file_config(root, epochs=None, samples_buffer_size=4, {ahead})
with Loader(config, device="cpu") as loader:
    next(loader)
    rest(loader.feeder_pid)
    read = psutil.Process(loader.feeder_pid).io_counters().read_chars
    say(read, sum(len(next(loader)) for _ in range(50)))
"""
    read, delivered = map(int, finish(code, tmp_path).split())
    payload = (tmp_path / "0.png").stat().st_size
    # 16 ahead of the bucketing (or 13, which take 2 MiB), 8 of a job; 4 batches out, 2 in the decoder, 1 ready,
    # 1 taken, 1 being filled; modules
    assert read < (16 + 8 + 4 * 9) * payload + 16 * 2**20
    assert delivered == 200
