"""Ends a text at a stop sequence where the engine does not, or leaves the sequence in it."""

from pointsman.generation import Delta, Finish


class Stops:
    """Passes a text on in pieces, less the first stop sequence and all behind it.

    The first is the one that is whole first, so that it is the same however the text is cut. What could
    begin one is held back. With `bare`, white space before the text is left out.
    """

    def __init__(self, stops: tuple[str, ...], *, bare: bool) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._firsts = {stop[0] for stop in stops}
        self._bare = bare
        self._held = ""
        self._over = False

    def cut(self, delta: Delta) -> Delta:
        """What may be said now. It is the last delta where a stop sequence was found."""
        if not (self._held or self._bare or self._over) and self._firsts.isdisjoint(delta.text):
            return delta  # no stop sequence is in it or begins there
        if self._over:
            return Delta(finish=delta.finish, last=delta.last)
        text = self._held + delta.text
        self._held = ""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._over = True
            text = self._lead(text[: min(found)[1]])
            return Delta(text, finish=Finish.STOP, last=True)
        if delta.finish is None and not delta.last:
            kept = len(text) - self._begun(text)
            text, self._held = text[:kept], text[kept:]
        return Delta(self._lead(text), delta.tokens, delta.finish, delta.last)

    def _begun(self, text: str) -> int:
        """How many characters at the end of the text could begin a stop sequence."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0

    def _lead(self, text: str) -> str:
        if self._bare:
            text = text.lstrip()
            self._bare = not text
        return text
