"""`python -m datago_gpu.feeder.download`: see `datago_gpu.feeder.download.process`."""

import sys

from datago_gpu.feeder.download.process import main

main(*map(int, sys.argv[1:]))
