"""Processes that download payloads for a feeder that cannot keep up alone."""
