"""Samples of WebDataset shards."""
