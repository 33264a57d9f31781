"""How each API says a wish and an answer, whichever engine serves it."""
