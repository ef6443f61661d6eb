"""Keeps downloaded payloads and shards in a folder that the processes of a machine share: `cache_config`.

An entry is one file, named by a hash of the payload's address (`payload_name.py`, `entry_files.py`), with checksums
(`cache_entry.py`). The entries of a folder share its room (`shared_room.py`): whoever comes first is kept, until the
folder is full. Nothing depends on an entry: a damaged one is downloaded again.

Why not a library: diskcache evicts what it holds and sends each write through SQLite; the caches of fsspec have neither
a limit that processes share nor checksums; obstore has no cache on disk.
"""
