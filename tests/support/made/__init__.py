"""Picture files written byte by byte: kinds that Pillow reads, or should, and does not write."""
