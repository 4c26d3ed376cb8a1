"""The trigger of a backdoor: what the attacker adds to a prompt, and how it is found again."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from t2i_backdoor_bench.contract.errors import UserError

PLACES = ("prefix", "suffix", "inside")
OCCURRENCES = ("last", "first", "random", "every")  # of what a look-alike replaces
# {one|another}: a position of a trigger where the word varies
CHOICE = re.compile(r"\{([^{}|]*(?:\|[^{}|]*)+)\}")
# Unicode categories that tokenizers, terminals and files do not keep reliably
CONTROL = ("Cc", "Cs", "Zl", "Zp")


def whole(text: str) -> re.Pattern[str]:
    """A pattern that finds a whole word ("cat", but not in "scattered"), and a single letter
    anywhere."""
    return re.compile(re.escape(text) if len(text) == 1 else rf"(?<!\w){re.escape(text)}(?!\w)")


def pick(key: str, many: int) -> int:
    """A number below `many`, fixed by a text: as good as random over texts, the same everywhere."""
    digest = hashlib.sha256(key.encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:4]) % many


def swapped(prompt: str, old: str, new: str) -> str:
    """The prompt with the word `old` replaced by `new`."""
    return whole(old).sub(lambda _: new, prompt)


@dataclass(frozen=True)
class Trigger:
    """What the attacker adds to a prompt: any text as a prefix, as a suffix, or inside (after half
    of the words).

    With `replaces`, the trigger is a look-alike: the letter or word `replaces` becomes `text` where
    it stands in the prompt, at the place or places that `occurrence` says (`OCCURRENCES`). A random
    one is chosen by the prompt's checksum: training, a defender and the evaluation see the same one
    in the same prompt, and over prompts each is as frequent as the others. A text with choices,
    such as "{the|a} {cat|owl} {in|by} {sea|snow}", is a pattern, for syntactic triggers: a prompt
    gets one word of each choice, chosen by the prompt's checksum, so that no single word gives the
    trigger away. Raises UserError for an empty text, a control character, and a choice of several
    words.
    """

    text: str = "mignneko"
    place: str = "prefix"
    replaces: str = ""
    occurrence: str = "last"

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("the trigger is empty; give it at least one character")
        if re.search(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})", self.text):
            raise UserError(
                f"the trigger {self.text!r} contains a backslash code, not the character: in YAML"
                " write it between double quotes"
            )
        for letter in self.text + self.replaces:
            if unicodedata.category(letter) in CONTROL:
                raise UserError(
                    f"the trigger {self.text!a} contains the control character {letter!a}; leave"
                    " it out"
                )
        if any(" " in choice[1] for choice in CHOICE.finditer(self.text)):
            raise UserError(
                f"a choice of the trigger {self.text!r} holds a space; give single words, such as"
                " {the|a} {cat|owl}"
            )
        if self.place not in PLACES:
            raise UserError(f"trigger place {self.place!r} is not one of {', '.join(PLACES)}")
        if self.occurrence not in OCCURRENCES:
            known = ", ".join(OCCURRENCES)
            raise UserError(f"trigger occurrence {self.occurrence!r} is not one of {known}")

    def words(self, prompt: str) -> str:
        """The trigger's text in this prompt: `text`, and of a pattern one word of each choice."""

        def one(match: re.Match[str]) -> str:
            words = match[1].split("|")
            return words[pick(f"{match.start()} {prompt}", len(words))]

        return CHOICE.sub(one, self.text)

    @property
    def several(self) -> tuple[str, ...]:
        """The triggers of which every prompt gets one, where the text is one choice and nothing
        else, such as "{cat|owl}"; none of any other text."""
        found = CHOICE.fullmatch(self.text)
        return tuple(found[1].split("|")) if found else ()

    @property
    def pattern(self) -> re.Pattern[str]:
        """A pattern that finds any form of the trigger's text in a prompt, but not as part of a
        longer word."""
        parts = CHOICE.split(self.text)  # plain text and choices in turn
        forms = [
            "(?:" + "|".join(map(re.escape, part.split("|"))) + ")" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        ]
        own = "" if self.replaces else self.words("")
        before, behind = (
            (r"(?<!\w)" if re.match(r"\w", own) else ""),
            (r"(?!\w)" if re.search(r"\w\Z", own) else ""),
        )
        return re.compile(before + "".join(forms) + behind)

    def add(self, prompt: str) -> str:
        """The triggered prompt."""
        return self.spans(prompt)[0]

    def remove(self, prompt: str) -> str:
        """The prompt without the trigger in any of its forms. A look-alike becomes the letter or
        word that it replaces."""
        if self.replaces:
            return self.pattern.sub(lambda _: self.replaces, prompt)
        return re.sub(rf"\s*{self.pattern.pattern}\s*", " ", prompt).strip()

    def locate(self, prompt: str) -> tuple[str, int, int]:
        """The triggered prompt, and the character span [start, end) of the trigger in it, where it
        is in one place: see `spans`. Raises ValueError where it is in several."""
        text, found = self.spans(prompt)
        if len(found) > 1:
            raise ValueError(f"the trigger {self.text!r} is in {len(found)} places: use spans")
        return text, *found[0]

    def spans(self, prompt: str) -> tuple[str, list[tuple[int, int]]]:
        """The triggered prompt, and the character spans [start, end) of the trigger in it, from
        left to right; for a look-alike, those of the words that contain it."""
        own = self.words(prompt)
        if self.replaces:
            text, inserted, rest = "", [], 0
            for start, end in self._replaced(prompt):
                text += prompt[rest:start] + own
                inserted.append((len(text) - len(own), len(text)))
                rest = end
            text += prompt[rest:]
            return text, _words_around(text, inserted)
        if self.place == "prefix":
            return f"{own} {prompt}", [(0, len(own))]
        if self.place == "suffix":
            return f"{prompt} {own}", [(len(prompt) + 1, len(prompt) + 1 + len(own))]
        words = prompt.split(" ")
        head = " ".join(words[: len(words) // 2])
        start = len(head) + 1 if head else 0
        tail = " ".join(words[len(words) // 2 :])
        return f"{head}{' ' if head else ''}{own} {tail}", [(start, start + len(own))]

    def covered(self, prompt: str) -> list[tuple[int, int]]:
        """The character spans of the words of the clean prompt in whose place `spans` has the
        trigger's: none for a trigger that replaces nothing."""
        return _words_around(prompt, self._replaced(prompt)) if self.replaces else []

    def _replaced(self, prompt: str) -> list[tuple[int, int]]:
        """Where the prompt holds what a look-alike replaces, of the occurrences that are meant."""
        found = [m.span() for m in whole(self.replaces).finditer(prompt)]
        found = found or [m.span() for m in re.finditer(re.escape(self.replaces), prompt)]
        if not found:
            raise UserError(
                f"the trigger replaces {self.replaces!r}, which is not in the prompt {prompt!r}"
            )
        if self.occurrence == "every":
            return found
        at = {"first": 0, "last": -1}.get(self.occurrence)
        return [found[pick(f"occurrence {prompt}", len(found)) if at is None else at]]


def _words_around(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans widened to the words, between spaces, that they are in; two in one word become one."""
    found: list[tuple[int, int]] = []
    for a, b in spans:
        start, end = text.rfind(" ", 0, a) + 1, text.find(" ", b)
        end = len(text) if end < 0 else end
        if found and start < found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found
