"""Turns batches of encoded images into pixels."""
