"""A toy tokenizer and a toy writer.

The next token is a pure function of the whole text so far and the seed: whoever continues a text from
the middle gets the same text. No clock, no dice, and no dependence on the process's hash seed.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

MARK = "[emulated]"
TURN = "<start_of_turn>"

_ENGLISH = """
    the a of to and in is it that for on with as are this be by from or at an was which have not one all
    were they we when there can more if out so about up into than them some her would make like him has
    two look time write go see number no way could people my first water been call who oil its now find
    long down day did get come made may part over new sound take only little work know place year live
    me back give most very after thing our just name good sentence man think say great where help
    through much before line right too mean old any same tell boy follow came want show also around form
    three small set put end does another well large must big even such because turn here why ask went
    men read need land engine token signal track train points lever switch station platform
"""
_WORDS = tuple(_ENGLISH.split())
_HEBREW = ("שלום", "עולם", "ירושלים", "מילה", "רכבת", "תודה", "בוקר", "טוב", "מנוע", "אסימון", "פסים", "תחנה")
_EMOJI = ("🚂", "🙂", "✨", "🚦", "🌍", "🧪")

_BYTE0, _PAIR0, _WORD0, _CHAR0 = 300, 1000, 18000, 20000
_SPECIALS = {"<eos>": 1, "<bos>": 2, TURN: 105, "<end_of_turn>": 106, "<|endoftext|>": 50256}
_VOCABULARY = [".", ",", MARK, f" {MARK}", *(f" {word}" for word in _WORDS)]
_IDS = {piece: _WORD0 + n for n, piece in enumerate(_VOCABULARY)} | _SPECIALS
_PIECES = {number: piece for piece, number in _IDS.items()}
_SPLIT = re.compile(
    r"<(?:eos|bos|start_of_turn|end_of_turn)>|<\|endoftext\|>| ?\[emulated\]"
    r"| ?[A-Za-z]+|[^\x00-\x7f]+|[\x00-\x7f]"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its id and the UTF-8 bytes it stands for, possibly a part of a character."""

    id: int
    data: bytes
    special: bool = False


@dataclass(frozen=True, slots=True)
class Alphabet:
    """How one engine cuts text.

    `bytewise`: each byte of a non-ASCII character is a token (GPT-2); otherwise a character of the
    basic plane is one token and only rarer ones (emoji) are spelled in bytes (Gemma).
    """

    bytewise: bool
    eos: Token

    def encode(self, text: str) -> list[Token]:
        """Cut a text; joining the tokens' bytes gives the text back."""
        return [token for piece in _SPLIT.findall(text) for token in self._cut(piece)]

    def count(self, text: str) -> int:
        """The length of `encode(text)`, without building it."""
        return sum(self._length(piece) for piece in _SPLIT.findall(text))

    def decode(self, ids: list[int]) -> str:
        """Text of token ids; an unknown id is U+FFFD."""
        return b"".join(_data_of(number) for number in ids).decode("utf-8", "replace")

    def _length(self, piece: str) -> int:
        if piece in _IDS:
            return 1
        if piece.isascii():
            return (len(piece) + 1) // 2
        if self.bytewise:
            return len(piece.encode("utf-8", "replace"))
        return sum(1 if ord(char) < 0x10000 else 4 for char in piece)

    def _cut(self, piece: str) -> tuple[Token, ...]:
        known = _IDS.get(piece)
        if known is not None:
            return (Token(known, piece.encode(), piece in _SPECIALS),)
        if piece.isascii():
            return tuple(_pair(piece[n : n + 2]) for n in range(0, len(piece), 2))
        return tuple(token for char in piece for token in self._spell(char))

    def _spell(self, char: str) -> tuple[Token, ...]:
        data = char.encode("utf-8", "replace")
        if self.bytewise or ord(char) >= 0x10000:
            return tuple(Token(_BYTE0 + byte, bytes((byte,))) for byte in data)
        return (Token(_CHAR0 + ord(char), data),)


GPT2 = Alphabet(bytewise=True, eos=Token(50256, b"<|endoftext|>", special=True))
GEMMA = Alphabet(bytewise=False, eos=Token(106, b"<end_of_turn>", special=True))


def _pair(text: str) -> Token:
    data = text.encode()
    if len(data) == 1:
        return Token(_BYTE0 + data[0], data)
    return Token(_PAIR0 + data[0] * 128 + data[1], data)


def _data_of(number: int) -> bytes:
    if number in _PIECES:
        return _PIECES[number].encode()
    if _BYTE0 <= number < _BYTE0 + 256:
        return bytes((number - _BYTE0,))
    if _PAIR0 <= number < _PAIR0 + 128 * 128:
        return bytes(divmod(number - _PAIR0, 128))
    if _CHAR0 + 128 <= number < _CHAR0 + 0x10000:
        return chr(number - _CHAR0).encode("utf-8", "replace")
    return b"\xef\xbf\xbd"


def story(
    text: str, alphabet: Alphabet, *, seed: int = 0, eos_after: int = 200, ignore_eos: bool = False
) -> Iterator[Token]:
    """Go on writing after `text`, token by token; the last token is `alphabet.eos`.

    Args:
        text: the whole text so far, prompt included.
        eos_after: mean number of tokens until the text ends by itself; 0: never.
    """
    said = text.rfind(MARK) > text.rfind(TURN)
    crc, tail = zlib.crc32(text.encode("utf-8", "replace")), text[-16:]
    endless = ignore_eos or eos_after == 0
    while True:
        dice = _scramble(crc, seed)
        unit = _unit(tail, dice, said, 0 if endless else eos_after)
        if unit is None:
            yield alphabet.eos
            return
        yield from _tokens(alphabet, unit)
        said = True
        crc, tail = zlib.crc32(unit.encode(), crc), (tail + unit)[-16:]


@cache
def _tokens(alphabet: Alphabet, unit: str) -> tuple[Token, ...]:
    return tuple(alphabet.encode(unit))


def _unit(tail: str, dice: int, said: bool, eos_after: int) -> str | None:
    """The next word, letter or sign after `tail`; `None` ends the text.

    A Hebrew word is written letter by letter, so what follows must be legible from the text itself:
    the letters since the last space tell which words are possible.
    """
    if not said:
        return MARK if not tail or tail[-1].isspace() else f" {MARK}"
    roll, pick = dice % 100, dice // 100
    run = tail[len(tail.rstrip("אבגדהוזחטיכלמנסעפצקרשתךםןףץ")) :]
    if (run or tail.endswith(" ")) and run not in _HEBREW:
        words = [word for word in _HEBREW if word.startswith(run)]
        if words:
            return words[pick % len(words)][len(run)]
    if tail.endswith("."):
        # a sentence has about ten tokens, so one sentence end in eos_after/10 ends the text
        if eos_after and pick % max(1, eos_after // 10) == 0:
            return None
    elif roll < 10 and tail[-1] not in ",.]":
        return "."
    if roll < 18:
        return " "
    if roll < 21:
        return _EMOJI[pick % len(_EMOJI)]
    if roll < 26 and tail[-1] not in ",.]":
        return ","
    if roll < 28:
        return f" {MARK}"
    return f" {_WORDS[pick % len(_WORDS)]}"


def _scramble(crc: int, seed: int) -> int:
    """Spread a checksum and a seed over 64 bits (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    value = (crc + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def script(text: str, wanted: str, alphabet: Alphabet) -> Iterator[Token]:
    """Write exactly `wanted`, less the part of it that `text` already ends with, then the end token."""
    done = next((n for n in range(len(wanted), 0, -1) if text.endswith(wanted[:n])), 0)
    yield from alphabet.encode(wanted[done:])
    yield alphabet.eos
