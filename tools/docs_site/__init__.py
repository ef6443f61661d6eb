"""What `make docs` needs beside mkdocs.yml: the site of the pages in docs/ and of the docstrings."""
