"""The parts of run.py, the comparison with the peers.

workloads.py   what is loaded, and how it is laid out
servers.py     nginx and a Dataroom: where it is loaded from; distance.py puts them far away, by wire.py
peers.py       who takes part, and with which interpreter; the programs are in ../peers
programs.py    the benchmarks of their own that are parts of a run, too
cached.py      a cache: while it fills, and from it
idle.py        what the feeder takes while the trainer is the slow one
figures.py     what was measured, merged from several calls
report.py      the Markdown; plots.py draws
"""
