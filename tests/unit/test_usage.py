"""What each key has used."""

from pointsman.exchange import Exchange
from pointsman.usage import Usage


def test_each_key_has_its_own_counts() -> None:
    """Requests, errors and tokens add up; who has no key is not counted."""
    usage = Usage()
    for key, status in (("a", 200), ("a", 429), ("b", 200), ("", 200)):
        usage.observe(
            Exchange("id", "/x", "POST", 0.0, key=key, status=status, prompt_tokens=3, completion_tokens=4)
        )
    assert (usage.of("a").requests, usage.of("a").errors) == (2, 1)
    assert (usage.of("a").prompt_tokens, usage.of("b").completion_tokens) == (6, 4)
    assert usage.of("c").requests == 0
    assert len(usage) == 2


def test_the_table_has_a_bound() -> None:
    """The key that was used least recently is forgotten first."""
    usage = Usage()
    for number in range(10_002):
        usage.observe(Exchange("id", "/x", "POST", 0.0, key=f"k{number}"))
        if number == 9_999:
            usage.observe(Exchange("id", "/x", "POST", 0.0, key="k0"))
    assert len(usage) == 10_000
    assert usage.of("k0").requests == 2
    assert usage.of("k1").requests == 0
