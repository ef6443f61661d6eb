"""`python -m datago_gpu.feeder`: see `datago_gpu.feeder.main`."""

import gc
import sys

gc.disable()  # nothing of what is imported is garbage: looking for it takes a tenth of the start

import datago_gpu.feeder.decoding.memory_plan  # noqa: E402, F401 - settings, which the fork server then shares
from datago_gpu.feeder.decoding.fork_server import start  # noqa: E402

*numbers, plan, ends, rows = sys.argv[1:]
channel, arena, parent, *links = map(int, numbers)
own = [int(rows)] if rows else []
decoding = start(plan, [*map(int, ends.split(","))], arena, (channel, *links, *own)) if plan else None

from datago_gpu.feeder.main import main  # noqa: E402 - the fork server runs while this is imported

gc.freeze()
gc.enable()
main(channel, arena, parent, *links, decoding=decoding, rows=own[0] if own else None)
