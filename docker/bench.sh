#!/bin/sh
# The benchmark of the container: bench.sh [cpu|cuda]. First what is here, then this image's own server over the network
# (DATAROOM_API_URL, DATAROOM_API_KEY), then the peers on a CPU, or the report on a GPU.
#
# BENCH_SAMPLES: pictures from the server. BENCH_SCALE: share of the peers' pictures. BENCH_RUNS: of each peer.
set -eu
device=${1:-cpu}
results=/results
cd /opt/datago_gpu

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
