"""How fast is datago_gpu, beside others and beside its own limits? Each says more with --help.

    python -m benchmarks.run        beside its peers, on this machine, the same work for everybody: `make bench`
    python -m benchmarks.stalls     how often a peer stops delivering, which is not the same as slow
    python -m benchmarks.trainer    what a loader costs the Python loop beside it
    python -m benchmarks.handover   what a sample costs the trainer's process in Python

peers/ has a small program for each contestant, suite/ the parts of run.py. material.py makes the photographs, also for
the GPU report; common.py has what all of these share with tests/long/ and tools/gpu_report/.
"""

import os

# Where Python may keep no compiled modules, as in many containers, each process of a loader would compile the package
# again: 60 ms of a start. An installed package does not pay that, so the peers do not.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
