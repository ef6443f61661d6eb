"""An embedded server that speaks a Dataroom's HTTP API over a folder of images.

service.py     DataroomServer: sockets, thread, signals, watching for changes
connection.py  limits of one connection, and answers to what is no request
app.py         the API's endpoints
media.py       the payload files, behind signed URLs
parameters.py  what a request asks to be answered with
query.py       which images it asks for, as SQL
attributes.py  types of attributes, and the filter on them
partition.py   which shard an image is in
catalogue.py   the SQLite index
folder.py      finding the images and what changed
records.py     reading one image's header and sidecar
"""

from datago_gpu.server.service import DataroomServer

__all__ = ["DataroomServer"]
