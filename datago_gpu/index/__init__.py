"""Makes an index of a source: a table of its samples, with their places and sizes.

build.py           one run: what is known already, what is looked at, what is written
keeping.py         many units at once, their rows in listed order
survey.py          what the surveys have in common; open_survey.py chooses one
folder_survey.py   local folders: reader_pool.py has the processes, reader.py is one, local_files.py its work
bucket_survey.py   object storage, and dataroom_survey.py Datarooms: remote_look.py downloads the first bytes
table_survey.py    tables whose images lie elsewhere
shard_survey.py    shards: members.py reads the samples of one
look.py            one image: its size, or why it cannot be used
journal.py         the rows of an unfinished index; known.py the rows of earlier ones, arrow_rows.py their columns
expiry.py          until when signed addresses are valid
"""
