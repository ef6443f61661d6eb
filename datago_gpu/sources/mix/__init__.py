"""A mix of several sources: which source is next, and where each source stands."""
