"""A Dataroom server over a folder, in a process of its own. Prints its URL and key as JSON; ends with its parent.

python -m tools.gpu_report.serving FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from datago_gpu.server import DataroomServer


def _end_with_parent() -> None:
    sys.stdin.read()  # ends when the parent does, whatever it dies of
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = DataroomServer(sys.argv[1], payload_port=0, watch_interval_s=None)
    server.serve_forever(lambda: print(json.dumps({"url": server.url, "key": server.key}), flush=True))


if __name__ == "__main__":
    main()
