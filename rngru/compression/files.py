"""What stands in a compressed file.

=============  ======  =======================================================================
bytes          length  what
=============  ======  =======================================================================
mark                3  ``rng``
format, kind        1  the format, and of the settings whether it learns, and what rounds how
model               2  of the SHA-256 of the parameters and the vocabulary
arithmetic          2  of the SHA-256 of what the model computes on a text of this package
text                4  of the SHA-256 of what was compressed
check               2  of the CRC-32 of all bytes after it
count             1-9  number of symbols, seven bits a byte
rate           0 or 4  how far it learns, float32, if that is not as usual
bits                   what the coder wrote
=============  ======  =======================================================================

The digests are short: they tell accidents, one after the other, and a letter is not to be twice as long
for them.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final, Self, final

from rngru.errors import CheckpointTooNew, TextError

ENDING: Final = ".rngz"
"""What is added to the name of a file that is compressed."""

FORMAT: Final = 1
"""The newest format that this version reads."""

ROUNDINGS: Final = ("", "separate", "fused")
"""The words of :func:`rngru.backends.rounding`."""

_MARK: Final = b"rng"
_HEAD: Final = struct.Struct("<3sB2s2s4sH")
_STILL, _USUAL, _OTHER = range(3)


@final
@dataclass(frozen=True, slots=True)
class File:
    """All that a compressed file says.

    Parameters
    ----------
    rounding: how the processor rounds, see :func:`rngru.backends.rounding`.
    rate: how far each piece is learned; True is as usual, False not at all.
    model, arithmetic, text: digests, 2, 2 and 4 bytes.
    count: how many symbols it has.
    data: what the coder wrote.
    """

    rounding: str
    rate: bool | float
    model: bytes
    arithmetic: bytes
    text: bytes
    count: int
    data: bytes

    def pack(self) -> bytes:
        """Return it as bytes."""
        learns = int(self.rate) if isinstance(self.rate, bool) else _OTHER
        kind = FORMAT << 4 | ROUNDINGS.index(self.rounding) << 2 | learns
        rest, left = bytearray(), self.count
        while left > 0x7F:
            rest.append(left & 0x7F | 0x80)
            left >>= 7
        rest.append(left)
        if learns == _OTHER:
            rest += struct.pack("<f", self.rate)
        rest += self.data
        parts = self.model, self.arithmetic, self.text
        return _HEAD.pack(_MARK, kind, *parts, zlib.crc32(rest) & 0xFFFF) + rest

    @classmethod
    def unpack(cls, where: object, data: bytes) -> Self:
        """Return what bytes say.

        Raises
        ------
        TextError
            If they were not written by :meth:`pack`, or are not whole.
        CheckpointTooNew
            If a later version wrote them.
        """
        if data[:3] != _MARK or len(data) <= _HEAD.size:
            raise TextError(f"{where} is no file that compress() wrote.")
        _, kind, model, arithmetic, text, check = _HEAD.unpack_from(data)
        form, rounding, learns = kind >> 4, kind >> 2 & 3, kind & 3
        if form > FORMAT:
            raise CheckpointTooNew.told(where, form, FORMAT, None)
        rest = data[_HEAD.size :]
        whole = zlib.crc32(rest) & 0xFFFF == check
        if not (form and whole and rounding < len(ROUNDINGS) and learns <= _OTHER):
            raise TextError(f"{where} is damaged, or cut short. Use another copy of it.")
        size = next((n for n, byte in enumerate(rest[:9], 1) if byte < 0x80), 0)
        count = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(rest[:size]))
        rest = rest[size:]
        rate: bool | float = learns == _USUAL
        if learns == _OTHER:
            rate = struct.unpack("<f", rest[:4].ljust(4, b"\0"))[0]
            rest = rest[4:]
        sensible = isinstance(rate, bool) or 0 < rate < float("inf")
        if not size or not sensible:
            raise TextError(f"{where} is damaged: what it says makes no sense.")
        return cls(ROUNDINGS[rounding], rate, model, arithmetic, text, count, rest)
