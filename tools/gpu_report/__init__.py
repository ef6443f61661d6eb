"""The evidence for the GPU path, in one command: `make gpu-report`, or `python -m tools.gpu_report.report --help`.

report.py     the entry: makes photographs, runs each check in a process of its own, writes the report after each
plan.py       which checks, in which order, for how long
check.py      that process
findings.py   what a check says: figures, gates, what was not possible
context.py    what a check is given: device, photographs, time
writing.py    report.json, report.md and the table on the terminal
material.py   photographs, and bad.py images that are none; turned.py ones with EXIF
ram.py        batches in memory, passed through a decoder; rates.py says how fast
graph.py      the loader's DALI graph without the loader
arrays.py     numpy or cupy, whichever the device has
nvml.py       what the driver counts
loading.py    loaders over files and HTTP
probe.py      a script of its own, for a machine that has torch and cupy only
checks/       one module for each group of checks
"""
