"""`python -m datago_gpu.cli`: the command line, where `datago-gpu` is not on the PATH."""

from datago_gpu.cli import main

main()
