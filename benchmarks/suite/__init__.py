"""The parts of run.py, the comparison with the peers.

workloads.py   what is loaded, and how it is laid out
servers.py     nginx, a Dataroom, latency: where it is loaded from
peers.py       who takes part, and with which interpreter; the programs are in ../peers
figures.py     what was measured, merged from several calls
report.py      the Markdown; plots.py draws
"""
