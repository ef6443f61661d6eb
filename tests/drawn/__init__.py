"""What the model test (tests/end_to_end/test_model.py) draws, and how it does what was drawn.

pictures.py and worlds.py hold the data sets, cases.py the settings and scripts, ways.py the ways to read, and runs.py
what holds a way to the model.
"""
