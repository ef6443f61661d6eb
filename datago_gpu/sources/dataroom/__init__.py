"""Images of a Dataroom server."""
