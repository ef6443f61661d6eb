"""What a Loader promises, said once more: slowly, one sample after the other, without any process, thread or queue.

The real thing lists, fetches, groups and decodes at the same time in two processes, and no timing may show in what
comes out. This model has no timing. It takes a data set and the settings. It says which batches come, in which order
and with which samples, which samples are skipped and why, and what is still to come after a state was saved anywhere.
The test (tests/end_to_end/test_model.py) draws settings, data sets and ways to use a loader, and compares the loader
with the model.

The promise, in the order in which a sample meets it, with the module that has it:

1. *The listing* (listing.py) is a list of numbered samples: that of one rank, in one epoch. It depends on the data set,
   the seed, the epoch, the rank and the world size alone. A `Lost` in it is the place where a shard breaks off; it has
   no number.
2. *The feeder* (stream.py) looks at each sample in the order of the listing. A bad one is skipped. The others go into
   groups, one for each bucket (sizes.py). A group leaves as a batch when it is full, before it would pass half of the
   arena, or as the largest one when all groups together pass `bucket_memory_mb`.
3. *At the end of an epoch* the groups that are left leave as short batches, in the order of their first samples. With
   `drop_last` they wait for samples of the next epoch: a batch is of the epoch that completes it. What waits at the end
   of the run is dropped.
4. *The limit* counts samples that were delivered, over all epochs, also those from before a state was saved. As soon as
   what was sent and what is held makes up the limit, the groups leave as at the end of an epoch. What the decoder then
   refuses is replaced by further samples. With `drop_last` the stream ends when no whole batch is left to the limit.
5. *The decoder* refuses what only the decoder can find out. Such a sample takes part in the grouping, counts for no
   limit, and leaves its batch shorter. A batch without any good sample never shows.
6. *An endless stream* (`epochs` None) ends where passes over the source bring no sample, nor any that waits.
7. *A state* (`Start`) holds the epoch, the numbers of its samples that are done, those of earlier epochs that wait, and
   how many were delivered. A stream that starts there begins with those that wait, then sees the listing of that epoch
   less what is done, and groups both anew.
8. *The trainer* (reader.py) takes batches or single samples. Where it takes samples, the rest of their batch is still
   to come: as the next batch, or after a state was loaded as part of the listing.
9. *Skips* are told once each, also over several loaders that go on from each other's states. The rest of a shard may
   be told of again where its shard is read again.
10. *A stream of which nothing can be used* is an error: TooManyErrors where samples are bad and none is delivered, also
   not before the state that it began from, nor left out by `drop_last`, and SourceError where a rank's shards hold no
   sample at all.
11. *A budget* (`max_failures`) is looked at before each batch, and at the end. *A row of samples that cannot be had* is
   held back: a good sample shows that they are single faults, and too long a row ends the run with SourceError.
12. *With `ordered` false* (loose.py) payloads are taken as they arrive. Then each sample comes once an epoch, and the
   rest of what is said here holds, but for the order.
13. *What `where` leaves out* (where.py) is part of the listing, keeps its number, and is done when the feeder comes to
   it. It is no skip: no list, budget or row of refusals counts it. A first epoch in which nothing passes ends with
   SourceError.
14. *A mix* (mix.py) takes turns among the listings of its sources, so that each has its share at every place; a source
   that has no more begins its next pass, which is listed as another epoch.

What goes with a picture (asked.py: masks, further images, attributes, embeddings, labels, captions) decides in part 1
about the fate of its sample, and comes with it.

To extend the model: a new kind of bad file is a word in tests/drawn/pictures.py; a new source is an `Order` and a
strategy in tests/drawn/cases.py; a new rule of grouping belongs to `stream.Groups`; a new way to read is a class in
tests/drawn/ways.py, and a new thing to do with a loader a step in tests/drawn/runs.py. Keep the model slow and simple.
It may import the settings and pure tables (buckets, the server's partitions) from the package, but nothing that it is
to judge.
"""

from tests.model.items import Item, Lost, Piece, Shard
from tests.model.listing import Listing, NoSamples, Order, files, rooms, shards
from tests.model.loose import Loose
from tests.model.mix import mixed
from tests.model.reader import Expected, Reader, Skip
from tests.model.sizes import Bucket, as_sized, leaves_out
from tests.model.stream import Start
from tests.model.where import chosen_by_where

__all__ = [
    "Bucket",
    "Expected",
    "Item",
    "Listing",
    "Loose",
    "Lost",
    "NoSamples",
    "Order",
    "Piece",
    "Reader",
    "Shard",
    "Skip",
    "Start",
    "as_sized",
    "chosen_by_where",
    "files",
    "leaves_out",
    "mixed",
    "rooms",
    "shards",
]
