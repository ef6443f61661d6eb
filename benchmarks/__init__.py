"""How fast is datago_gpu, beside others and beside its own limits? Each says more with --help.

    python -m benchmarks.run        beside its peers, on this machine, the same work for everybody: `make bench`
    python -m benchmarks.trainer    what a loader costs the Python loop beside it
    python -m benchmarks.handover   what a sample costs the trainer's process in Python

peers/ has a small program for each contestant, suite/ the parts of run.py. material.py makes the photographs, also for
the GPU report; common.py has what all of these share with tests/long/ and tools/gpu_report/.
"""
