"""Functions for single images on the CPU, used by both the feeder and the decoders."""
