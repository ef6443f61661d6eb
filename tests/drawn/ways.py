"""The ways to read that the model test knows: a Loader, a LoaderDataset, datago's client. All give the same records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from datago_gpu import Batch, Loader, LoaderConfig, Sample
from datago_gpu.compat import DatagoClient
from tests.model.shown import Shown
from tests.support.needs import needs

__all__ = ["UNTOLD", "WAYS", "Got", "GotBatch", "State", "Way"]

State = dict[str, Any]
UNTOLD = "untold"


@dataclass
class Got:
    """A sample as the trainer gets it."""

    id: str
    pixels: Any
    original_size: tuple[int, int]
    attributes: dict[str, Any]
    embedding: list[float]
    pieces: dict[str, Any]
    """Masks and further images by their names; without those that are not there."""
    epoch: int = 0
    shown: list[Shown] = field(default_factory=list)
    """Of each view the region, and whether mirrored; empty where the way does not tell."""
    label: int | str | None = UNTOLD
    place: tuple[str, int | None] = ("", None)
    """Of a mix: the name of its source, and the number of the pass."""
    further_views: list[Any] = field(default_factory=list)
    """Pixels of the views after the first."""


@dataclass
class GotBatch:
    """A batch as the trainer gets it."""

    epoch: int
    bucket: tuple[int, int] | None
    samples: list[Got]


class Way(Protocol):
    """One way to read, from one loader after the other.

    has_states: there is a state, to go on from. has_samples, has_batches: what can be taken. passes: how many there
    are, each of which ends.
    """

    has_states: bool
    has_samples: bool
    has_batches: bool
    passes: int

    def open(self, state: State | None) -> None:
        """Begin anew, or from a state."""

    def load(self, state: State | None) -> None:
        """Go on from a state, or where there are none with the next pass, without another object."""

    def next_pass(self) -> None:
        """After the end of one."""

    def batch(self) -> GotBatch | None:
        """None at the end."""

    def begin_samples(self) -> None:
        """What comes next is taken sample by sample."""

    def sample(self) -> Got | None:
        """None at the end."""

    def state(self) -> State: ...

    def close(self) -> None: ...

    @property
    def loader(self) -> Loader | None:
        """The Loader behind it, for its stats and its feeder; None as long as nothing was taken."""


class ByLoader:
    """A Loader, whose batches and samples are taken."""

    has_states = has_samples = has_batches = True
    passes = 1

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self.loader: Loader | None = None

    def open(self, state: State | None) -> None:
        self.loader = Loader(self._config, device="cpu", backend="pillow", state=state)

    def next_pass(self) -> None:
        raise NotImplementedError

    def load(self, state: State | None) -> None:
        assert self.loader is not None
        assert state is not None
        self.loader.load_state_dict(state)

    def batch(self) -> GotBatch | None:
        assert self.loader is not None
        batch = next(self.loader, None)
        return None if batch is None else _of_batch(batch)

    def begin_samples(self) -> None:
        assert self.loader is not None
        self._samples = self.loader.samples()

    def sample(self) -> Got | None:
        sample = next(self._samples, None)
        return None if sample is None else _of_sample(sample)

    def state(self) -> State:
        assert self.loader is not None
        return self.loader.state_dict()

    def close(self) -> None:
        if self.loader is not None:
            self.loader.close()


class ByDataset:
    """A LoaderDataset, each iteration of which is a pass."""

    has_states = has_batches = True
    has_samples = False
    passes = 2

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._dataset: Any = None
        self._iterator: Iterator[Any] | None = None

    def open(self, state: State | None) -> None:
        self._iterator = None
        self._dataset = needs("datago_gpu.torch").LoaderDataset(self._config, device="cpu", backend="pillow")
        if state is not None:
            self._dataset.load_state_dict(state)

    def load(self, state: State | None) -> None:
        self._iterator = None
        assert state is not None
        self._dataset.load_state_dict(state)

    def next_pass(self) -> None:
        self._iterator = None

    def batch(self) -> GotBatch | None:
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        batch = next(self._iterator, None)
        return None if batch is None else _of_tensors(batch)

    def begin_samples(self) -> None:
        raise NotImplementedError

    def sample(self) -> Got | None:
        raise NotImplementedError

    def state(self) -> State:
        state: State = self._dataset.state_dict()
        return state

    def close(self) -> None:
        if self.loader is not None:
            self.loader.close()

    @property
    def loader(self) -> Loader | None:
        return None if self._dataset is None else self._dataset.loader


class ByClient:
    """datago's client, which has samples only, no states, and passes that are shuffled anew."""

    has_samples = True
    has_states = has_batches = False
    passes = 2

    def __init__(self, config: LoaderConfig) -> None:
        given = msgspec.to_builtins(config)
        if config.source_type == "webdataset":
            given["source_config"]["datago_form"] = False
        self._text, self._root = json.dumps(given), given["source_config"].get("root_path", "")
        self._client: DatagoClient | None = None

    def open(self, state: State | None) -> None:
        self._client = DatagoClient(self._text, device="cpu", backend="pillow")
        self._client.start()

    def load(self, state: State | None) -> None:
        assert self._client is not None
        self._client.stop()
        self._client.start()

    def next_pass(self) -> None:
        assert self._client is not None
        self._client.start()

    def batch(self) -> GotBatch | None:
        raise NotImplementedError

    def begin_samples(self) -> None:
        pass

    def sample(self) -> Got | None:
        assert self._client is not None
        sample = self._client.get_sample()
        if sample is None:
            return None
        name = json.loads(sample.id).removeprefix(f"{self._root}/") if self._root else sample.id
        image = sample.image.get_payload()
        return Got(
            name,
            image.to_numpy_array(),
            (image.original_height, image.original_width),
            json.loads(sample.attributes),
            sample.coca_embedding,
            {name: picture.to_numpy_array() for name, picture in {**sample.masks, **sample.additional_images}.items()},
        )

    def state(self) -> State:
        raise NotImplementedError

    def close(self) -> None:
        if self._client is not None:
            self._client.stop()

    @property
    def loader(self) -> Loader | None:
        stream = None if self._client is None else self._client._stream
        return None if stream is None else stream._loader


WAYS = {"Loader": ByLoader, "LoaderDataset": ByDataset, "DatagoClient": ByClient}


def _of_batch(batch: Batch) -> GotBatch:
    return GotBatch(batch.epoch, batch.bucket, [_of_sample(sample) for sample in batch])


def _of_sample(sample: Sample) -> Got:
    return Got(
        sample.id,
        np.asarray(sample.image),
        sample.original_size,
        sample.attributes,
        [] if sample.embedding is None else np.asarray(sample.embedding).tolist(),
        {
            name: np.asarray(pixels)
            for name, pixels in {**sample.masks, **sample.additional_images}.items()
            if pixels is not None
        },
        sample.epoch,
        list(zip(sample.view_crops, sample.view_flipped, strict=True)),
        sample.label,
        (sample.mix, sample.pass_number),
        [np.asarray(view) for view in sample.views[1:]],
    )


def _of_tensors(batch: dict[str, Any]) -> GotBatch:
    samples = []
    for row, name in enumerate(batch["ids"]):
        there = {**batch["masks"], **batch["additional_images"]}
        high, wide = batch["original_sizes"][row].tolist()
        samples.append(
            Got(
                name,
                batch["image"][row].numpy(),
                (high, wide),
                batch["attributes"][row],
                [] if batch["embeddings"] is None else batch["embeddings"][row].tolist(),
                {kind: pixels[row].numpy() for kind, pixels in there.items() if batch["present"][kind][row]},
                int(batch["sample_epochs"][row]),
                [
                    (tuple(crops[row].tolist()), bool(flipped[row]))
                    for crops, flipped in zip(
                        batch.get("view_crops", [batch["crops"]]),
                        batch.get("view_flipped", [batch["flipped"]]),
                        strict=True,
                    )
                ],
                None if batch["labels"] is None else int(batch["labels"][row]),
                (batch["mix"][row], batch["pass_numbers"][row]),
                [view[row].numpy() for view in batch.get("views", [])[1:]],
            )
        )
    return GotBatch(batch["epoch"], batch["bucket"], samples)
