"""What `make docs` needs beside mkdocs.yml, and what writes docs/settings.md from the docstrings of the package.

hooks.py changes links of pages, docstrings.py is griffe's extension and plain_text.py its text; theme/ replaces two
files of the theme. settings.py writes docs/settings.md, with the examples of setting_examples.py.
"""
