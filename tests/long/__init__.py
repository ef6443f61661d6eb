"""Tests that take as long as they are given. pytest collects none of them; the suite runs each in a short form.

    python -m tests.long.soak           every fault at once, on both back ends, for 20 minutes
    python -m tests.long.corpus         every file of Pillow's tests, and mutations of good files
    python -m tests.long.headers        damaged headers without end: can DALI parse what the feeder lets pass?
    python -m tests.long.odd_exif       damaged and doubled EXIF blocks: do both back ends turn them alike?
    python -m tests.long.stragglers     1% of the answers late: what is left of the rate?
    python -m tests.long.memory_bounds  hostile inputs: does memory keep to what the settings promise?
    python -m tests.long.memory_growth  50,000 samples: does memory stay flat?

Each says with --help what it looks at, and exits with 1 where one of its gates is missed. docs/reliability.md and
docs/performance.md hold what was found.
"""
