"""Encodes decoded images again with nvImageCodec: nvJPEG on a GPU; PNG, and both on the CPU, with its CPU encoders."""

from __future__ import annotations

from nvidia import nvimgcodec

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages
from datago_gpu.decoders.device import read_at_once
from datago_gpu.decoders.threads import decoding_threads, gpu_threads

__all__ = ["EncodingDecoder"]


class EncodingDecoder:
    """A `Decoder` that encodes its images again: `DecodedImages.image` is a list of bytes.

    inner: returns images as HWC, uint8, contiguous, on the GPU `device_id`; None is the CPU.
    """

    def __init__(self, inner: Decoder, image: ImageConfig, decode: DecodeConfig, device_id: int | None) -> None:
        self._inner, self.depth = inner, inner.depth
        self._codec = image.encode_format
        device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if device_id is None else device_id
        kinds = [nvimgcodec.Backend(nvimgcodec.CPU_ONLY)] if device_id is None else None  # otherwise it needs a GPU
        count = decoding_threads(decode) if device_id is None else gpu_threads(decode)
        threads = max(1, count - 1)  # it warns if there are more than CPUs - 1
        self._encoder = nvimgcodec.Encoder(device_id=device, max_num_cpu_threads=threads, backends=kinds)
        self._params = None  # PNG has no quality to choose
        if self._codec == "jpeg":
            self._params = nvimgcodec.EncodeParams(
                quality_type=nvimgcodec.QualityType.QUALITY,
                quality_value=image.jpeg_quality,
                chroma_subsampling=nvimgcodec.ChromaSubsampling.CSS_444,  # as `encode.Encoder`
            )

    def submit(self, images: EncodedImages) -> None:
        self._inner.submit(images)

    def collect(self) -> DecodedImages:
        decoded = self._inner.collect()
        if decoded.image is None:
            return decoded
        sources = [nvimgcodec.as_image(read_at_once(each)) for each in decoded.image]
        encoded = self._encoder.encode(sources, self._codec, params=self._params)
        total = len(decoded.image) + len(decoded.failures)
        rows = [row for row in range(total) if row not in decoded.failures]
        refused = {row: "the image could not be encoded again" for row, stream in zip(rows, encoded, strict=True)
                   if stream is None}  # fmt: skip
        kept = [bytes(stream) for stream in encoded if stream is not None]
        return DecodedImages(kept or None, dict(sorted((decoded.failures | refused).items())), decoded.rescued)

    def close(self) -> None:
        self._inner.close()
