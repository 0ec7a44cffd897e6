"""Write PNG files that are simple enough for the scripts of the report to read their values.

A browser may change the pixels that a script reads from a canvas (colour management, protection against
fingerprinting), so the page unpacks the file itself; therefore the rows of label maps are not filtered.
"""

import struct
import zlib

import numpy as np


def encode_png(image: np.ndarray, colours: np.ndarray | None = None) -> bytes:
    """Encode an image without loss; the same image gives the same bytes.

    Args:
        image: (H, W) uint8 indices into `colours`, (H, W) uint16 greys, or (H, W, 3) uint8 colours.
        colours: (n, 3) uint8, at most 256, of an indexed image.
    Returns:
        Content of the file. Rows of indices and greys are not filtered (filter 0).
    Raises:
        ValueError: an indexed image has no colours.
    """
    height, width = image.shape[:2]
    palette = None
    if image.ndim == 3:
        depth, kind, rows = 8, 2, image.reshape(height, -1).copy()
        rows[:, 3:] -= rows[:, :-3].copy()  # filter 1, the difference to the left, packs photographs better
    elif image.dtype == np.uint16:
        depth, kind, rows = 16, 0, image.astype(">u2").view(np.uint8).reshape(height, -1)
    elif colours is None:
        raise ValueError("an indexed image needs colours")
    else:
        depth, kind, rows, palette = 8, 3, image, colours.astype(np.uint8).tobytes()
    filters = np.full((height, 1), int(image.ndim == 3), dtype=np.uint8)
    packed = zlib.compress(np.hstack([filters, rows]).tobytes(), 6)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        (b"IDAT", packed),
        (b"IEND", b""),
    ]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
