"""Rows of the program's own: the trainer's process reads them and sends them to the feeder."""
