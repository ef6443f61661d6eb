"""Which rows make up which global batch: a pure function of sizes, settings, seed and epoch. No input, no output."""
