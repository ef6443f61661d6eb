"""Statistics as plain numbers under fixed names, for logs of training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datago_gpu.loader.stats import Stats

__all__ = ["FLAT_NAMES", "flat_values"]

FLAT_NAMES: dict[str, str] = {
    "samples": "samples delivered",
    "samples_per_second": "samples delivered a second",
    "encoded_bytes_per_second": "encoded bytes a second that reached the decoder",
    "seconds": "seconds that the numbers are of",
    "data_wait_p50_seconds": "how long the trainer waited for a batch: half of the waits were not longer",
    "data_wait_p95_seconds": "95% of the waits were not longer",
    "data_wait_p99_seconds": "99% of the waits were not longer",
    "data_wait_ratio": "share of the time that the trainer waited, from 0 to 1",
    "step_p50_seconds": "how long the trainer took for a step, without the wait: half of the steps were not longer",
    "step_p95_seconds": "95% of the steps were not longer",
    "step_p99_seconds": "99% of the steps were not longer",
    "STAGE_samples_per_second": "samples a second that left the stage",
    "STAGE_input_wait_ratio": "share of the time that the stage waited for its input",
    "STAGE_output_wait_ratio": "share of the time that the stage waited for its output to be taken",
    "queue_fetch_samples": "samples that are being loaded, or wait for their turn",
    "queue_bucket_samples": "samples that wait in batches that are not full",
    "queue_decode_batches": "batches that are being decoded, or wait for it",
    "queue_ready_batches": "batches that wait for the trainer",
    "feeder_cores": "CPU use of the feeder process, in cores",
    "decode_cores": "CPU use of the decode processes together, in cores",
    "skipped": "samples skipped, of all reasons",
    "skipped_REASON": "samples skipped for this reason",
    "flawed": "samples delivered incomplete, of all reasons",
    "filtered": "samples that `where` left out",
    "rescued": "samples that DALI refused and Pillow decoded",
    "dropped": "samples that `drop_last` left out",
    "cache_hits": "payloads and shards read from the folder of `cache_config`",
    "cache_misses": "payloads and shards downloaded that this folder did not have",
    "cache_bytes": "bytes read from that folder",
    "epoch": "the current epoch, counted from 0",
    "epoch_progress_ratio": "share of the epoch that is done, from 0 to 1; absent if the number of samples is unknown",
    "epoch_eta_seconds": "seconds to the end of the epoch at this rate; absent if they cannot be told",
}
"""Name -> meaning. STAGE stands for fetch, pack, decode or trainer, REASON for a reason of `skipped`."""

UNITS = {"fetch": "samples", "bucket": "samples", "decode": "batches", "ready": "batches"}
"""Name of each queue -> what it holds."""


def flat_values(stats: Stats) -> dict[str, float]:
    """Returns a number for each of `FLAT_NAMES`."""
    seconds = stats.seconds
    found: dict[str, float] = {
        "samples": stats.delivered,
        "samples_per_second": stats.delivered / seconds,
        "encoded_bytes_per_second": stats.bytes / seconds,
        "seconds": seconds,
        "data_wait_ratio": stats.data_wait.sum_s / seconds,
    }
    for name, durations in (("data_wait", stats.data_wait), ("step", stats.step)):
        for percent in (50, 95, 99):
            found[f"{name}_p{percent}_seconds"] = durations.percentile_s(percent)
    for stage in stats.stages:
        found[f"{stage.name}_samples_per_second"] = stage.per_s
        found[f"{stage.name}_input_wait_ratio"] = stage.waited_input
        found[f"{stage.name}_output_wait_ratio"] = stage.waited_output
    for queue in stats.queues:
        found[f"queue_{queue.name}_{UNITS[queue.name]}"] = queue.depth
    same = ("feeder_cores", "decode_cores", "filtered", "rescued", "dropped", "epoch")
    for name in (*same, "cache_hits", "cache_misses", "cache_bytes"):
        found[name] = getattr(stats, name)
    found |= {"skipped": sum(stats.skipped.values()), "flawed": sum(stats.flawed.values())}
    found |= {f"skipped_{reason.replace('-', '_')}": count for reason, count in stats.skipped.items()}
    for name, value in (("epoch_progress_ratio", stats.progress), ("epoch_eta_seconds", stats.eta_s)):
        if value is not None:
            found[name] = value
    return {name: float(value) for name, value in found.items()}
