"""The chat template (Gemma's shape), used by both engines."""

from typing import Any

from emulator.text import TURN


class TemplateError(ValueError):
    """The messages do not fit the template."""


def continue_or_answer(messages: list[dict[str, Any]]) -> bool:
    """Whether the last message is the assistant's own and is to be continued (TGI does so by itself)."""
    return bool(messages) and messages[-1].get("role") == "assistant"


def text_of(content: object) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def prompt_of(messages: list[dict[str, Any]], continued: bool, *, answer: bool = True) -> str:
    """Messages as one text. `continued`: leave the last one open; `answer`: open the model's turn."""
    turns = []
    system = ""
    for place, message in enumerate(messages):
        role, text = message.get("role"), text_of(message.get("content"))
        if role in ("system", "developer") and place == 0:
            system = f"{text}\n\n"
            continue
        turns.append(f"{TURN}{'model' if role == 'assistant' else role}\n{system}{text}")
        system = ""
    if system:
        turns.append(f"{TURN}user\n{system}")
    text = "<end_of_turn>\n".join(turns)
    if continued:
        return f"<bos>{text}"
    return f"<bos>{text}<end_of_turn>\n" + (f"{TURN}model\n" if answer else "")


def check_alternation(messages: list[dict[str, Any]]) -> None:
    """Gemma's own rule; raises TemplateError with its words."""
    rest = messages[1:] if messages and messages[0].get("role") in ("system", "developer") else messages
    for place, message in enumerate(rest):
        if (message.get("role") == "user") != (place % 2 == 0):
            raise TemplateError("Conversation roles must alternate user/assistant/user/assistant/...")
