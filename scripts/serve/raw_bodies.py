"""What a raw body is, told to schemathesis, whose schemas cannot say it: whole queries of DIM little-endian f32."""

import os
import struct

import schemathesis
from hypothesis import strategies

DIM = int(os.environ["DIM"])

numbers = strategies.floats(width=32, allow_nan=False, allow_infinity=False)
queries = strategies.lists(strategies.lists(numbers, min_size=DIM, max_size=DIM), min_size=1, max_size=3)
schemathesis.openapi.media_type(
    "application/octet-stream",
    queries.map(lambda rows: b"".join(struct.pack(f"<{DIM}f", *row) for row in rows)),
)
