"""One of several processes of JAX on the CPU. Run by test_jax.py, not by pytest.

python jax_ranks.py PORT RANK CONFIG.json [STOP]: computes over two devices of each process, appends a line for each
step to rankRANK.jsonl, and saves the state of the loader. STOP: the process kills itself after so many steps.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from datago_gpu import Batch, ConfigError, Loader
from datago_gpu.jax import rank_and_world_size, sharded

P = PartitionSpec


@jax.jit
def mean(image: jax.Array, real: jax.Array) -> jax.Array:
    """The mean of all samples of all processes that count."""
    means = image.astype(jnp.float32).mean((1, 2, 3))
    return (means * real).sum() / real.sum()


def shares(rank: int, sharding: NamedSharding) -> dict[str, object]:
    """What a process is told of its share, and of batches without lockstep."""
    replicas = NamedSharding(jax.make_mesh((2, 2), ("model", "data")), P("data"))
    lone = Batch([str(rank)] * 2, [""] * 2, np.full((2, 4, 4, 3), rank), np.zeros((2, 2)), np.zeros((2, 4)), (4, 4))
    try:
        sharded(lone, sharding)
        refused = ""
    except ConfigError as error:
        refused = str(error)
    same = sharded(lone, sharding, ["image"], same_shapes=True)["image"]
    lone.lockstep, lone.masks = True, {"seg": None}
    try:
        sharded(lone, sharding)
        absent = ""
    except ConfigError as error:
        absent = str(error)
    return {
        "share": rank_and_world_size(sharding),
        "share of replicas": rank_and_world_size(replicas),
        "refused": refused,
        "absent": absent,
        "same": [same.shape, float(jax.jit(lambda image: image.mean())(same))],
    }


def main(port: str, rank: int, config: str, stop: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    sharding = NamedSharding(jax.make_mesh((4,), ("data",)), P("data"))
    if not stop:
        Path(f"shares{rank}.json").write_text(json.dumps(shares(rank, sharding)))
    saved = Path(f"state{rank}.json")
    state = json.loads(saved.read_text()) if saved.exists() else None
    with Loader(json.loads(Path(config).read_text()), device="cpu", state=state) as loader:
        assert loader.config.rank_and_world_size() == (rank, 2)
        for step, batch in enumerate(loader, 1):
            arrays = sharded(batch, sharding, ["image", "real"])
            found = float(mean(arrays["image"], arrays["real"]))
            means = np.asarray(batch.image, np.float64).mean((1, 2, 3))
            line = {
                "ids": batch.ids,
                "shape": arrays["image"].shape,
                "mean": found,
                "sum": float(means[batch.real].sum()),
                "count": int(batch.real.sum()),
            }
            with Path(f"rank{rank}.jsonl").open("a") as lines:
                print(json.dumps(line), file=lines)
            saved.write_text(json.dumps(loader.state_dict()))
            if step == stop:
                os.kill(os.getpid(), signal.SIGKILL)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 0)
