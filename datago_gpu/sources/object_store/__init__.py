"""Images and shards in object storage."""
