"""`python -m datago_gpu.feeder`: see `datago_gpu.feeder.process`."""

import sys

from datago_gpu.feeder.process import main

main(*map(int, sys.argv[1:]))
