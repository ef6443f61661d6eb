"""One picture on the CPU: what the feeder and the decoders both have to know of it."""
