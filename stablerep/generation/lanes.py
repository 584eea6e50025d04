"""A GPU's lanes: captions are embedded and images decoded beside the denoising of other batches."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

logger = logging.getLogger("stablerep.generation")


class Lanes:
    """Streams of a GPU for text and for decoding, beside the current one, which denoises; elsewhere none.

    The host waits for nothing but its own lane: that of text, whose copies to the GPU it waits for, has no
    denoising in it, and what is decoded does not hold up the next batch. Each piece of work is the same, in
    the same order within its lane, so that images are, too.

    Args:
        wanted: False: everything in the current stream, one piece after the other.
    """

    def __init__(self, device: torch.device, *, wanted: bool = True) -> None:
        self._device = device
        self._text: torch.cuda.Stream | None = None
        self._decode: torch.cuda.Stream | None = None
        self._retries = 0
        if wanted and device.type == "cuda":
            self._text, self._decode = torch.cuda.Stream(device), torch.cuda.Stream(device)
            self._text.wait_stream(torch.cuda.current_stream(device))  # weights may still be converted there
            self._retries = self._count_retries()

    @contextmanager
    def text(self) -> Iterator[None]:
        """What is launched inside runs at once, whatever waits in the current stream."""
        if self._text is None:
            yield
            return
        with torch.cuda.stream(self._text):
            yield

    def wait_for_text(self, made: Iterable[Tensor]) -> None:
        """The current stream goes on when all text is embedded; it may use the tensors made of it."""
        if self._text is None:
            return
        stream = torch.cuda.current_stream(self._device)
        stream.wait_stream(self._text)
        for tensor in made:
            tensor.record_stream(stream)  # or its memory could be given away before the stream has read it

    @contextmanager
    def decoding(self, samples: Tensor) -> Iterator[None]:
        """What is launched inside runs once the samples are there, beside what is launched after it."""
        if self._decode is None or self._is_short_of_memory():
            yield
            return
        self._decode.wait_stream(torch.cuda.current_stream(self._device))
        samples.record_stream(self._decode)
        with torch.cuda.stream(self._decode):
            yield

    def _is_short_of_memory(self) -> bool:
        """Whether memory had to be taken from one lane for another: from then on decoding stays in line."""
        if self._count_retries() <= self._retries:
            return False
        logger.info("the GPU's memory does not suffice to decode beside denoising: one after the other now")
        self._decode = None
        return True

    def _count_retries(self) -> int:
        return int(torch.cuda.memory_stats(self._device).get("num_alloc_retries", 0))
