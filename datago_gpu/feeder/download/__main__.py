"""`python -m datago_gpu.feeder.download`: see `datago_gpu.feeder.download.downloader`."""

import sys

from datago_gpu.feeder.download.downloader import main

main(*map(int, sys.argv[1:]))
