"""PNG files made plainly enough for the report's scripts to read their values back.

A browser may change pixels that a script reads from a canvas (colour management, protection against
fingerprinting), so the page unpacks the file itself; rows of label maps are therefore left unfiltered.
"""

import struct
import zlib

import numpy as np


def encode_png(image: np.ndarray, colours: np.ndarray | None = None) -> bytes:
    """Encode an image, losslessly and the same each time.

    Args:
        image: (H, W) uint8 indices into `colours`, (H, W) uint16 greys, or (H, W, 3) uint8 colours.
        colours: (n, 3) uint8, at most 256, of an indexed image.
    Returns:
        The file. Rows of indices and greys are stored as they are (filter 0).
    """
    height, width = image.shape[:2]
    if image.ndim == 3:
        depth, kind, rows = 8, 2, image.reshape(height, -1).copy()
        rows[:, 3:] -= rows[:, :-3].copy()  # filter 1, the difference to the left, packs photographs better
    elif image.dtype == np.uint16:
        depth, kind, rows = 16, 0, image.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        depth, kind, rows = 8, 3, image
    filters = np.full((height, 1), int(image.ndim == 3), dtype=np.uint8)
    packed = zlib.compress(np.hstack([filters, rows]).tobytes(), 6)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        (b"IDAT", packed),
        (b"IEND", b""),
    ]
    if kind == 3:
        chunks.insert(1, (b"PLTE", colours.astype(np.uint8).tobytes()))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
