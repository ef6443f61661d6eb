"""`python -m datago_gpu.feeder`: see `datago_gpu.feeder.process`."""

import sys

from datago_gpu.feeder.decoding.fork_server import start_described

*numbers, described = sys.argv[1:]
socket_descriptor, arena_descriptor, parent, *links = map(int, numbers)
decoding = start_described(described, arena_descriptor, (socket_descriptor, *links))

from datago_gpu.feeder.process import main  # noqa: E402 - the decode processes start while this is imported

main(socket_descriptor, arena_descriptor, parent, *links, decoding=decoding)
