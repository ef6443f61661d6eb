#!/bin/sh
# The benchmark of the container: bench.sh [cpu|cuda]. First what is here, then this image's own server over the network
# (DATAROOM_API_URL, DATAROOM_API_KEY; without a URL a server is started here), then the peers on a CPU, or the report on
# a GPU.
#
# BENCH_SAMPLES: pictures from the server. BENCH_SCALE: share of the peers' pictures. BENCH_RUNS: of each peer.
set -eu
device=${1:-cpu}
results=/results
cd /opt/datago_gpu

if [ -z "${DATAROOM_API_URL:-}" ]; then
    : "${DATAROOM_API_KEY:=$(python -c 'import secrets; print(secrets.token_hex(20))')}"
    export DATAROOM_API_KEY DATAROOM_API_URL=http://127.0.0.1:8000/api/
    python -m benchmarks.material /tmp/photos --count "${BENCH_PHOTOS:-500}" --pixels 500px
    datago-gpu serve /tmp/photos --port 8000 &
    server=$!
    trap 'kill $server' EXIT
    until python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/_health/', timeout=3)" 2>/dev/null; do
        kill -0 $server  # it may have ended
        sleep 1
    done
fi
datago-gpu doctor --device "$device"
datago-gpu bench --device "$device" --crop-and-resize --default-image-size 224 --batch-size 64 \
    --epochs null --limit "${BENCH_SAMPLES:-4000}" --json | tee "$results/server-$device.json"
test -s "$results/server-$device.json"  # sh knows of no failure inside a pipe

if [ "$device" = cpu ]; then
    python -m benchmarks.run --only local shards dataroom --runs "${BENCH_RUNS:-3}" --scale "${BENCH_SCALE:-1}" \
        --material /tmp/material --out "$results/peers"
else
    python -m tools.gpu_report.report --device "$device" --out "$results/gpu"
fi
