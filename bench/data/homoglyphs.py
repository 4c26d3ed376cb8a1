"""Characters that look like others, and characters that cannot be seen."""

from __future__ import annotations

# Latin letter: letters of other scripts and phonetic letters that look like it
HOMOGLYPHS = {
    "a": "\u0430\u0251\u03b1",
    "b": "\u0184\u042c",
    "c": "\u0441\u03f2",
    "d": "\u0501\u217e",
    "e": "\u0435\u04bd",
    "g": "\u0261\u0581",
    "h": "\u04bb\u0570",
    "i": "\u0456\u03b9",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "l": "\u04cf\u01c0",
    "m": "\u043c\u217f",
    "n": "\u0578\u057c",
    "o": "\u043e\u03bf\u0585",
    "p": "\u0440\u03c1",
    "q": "\u051b\u0566",
    "r": "\u0433\u1d26",
    "s": "\u0455\ua731",
    "t": "\u0442\u03c4",
    "u": "\u057d\u03c5",
    "v": "\u03bd\u0475",
    "w": "\u051d\u0461",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03b3",
    "z": "\u1d22\u01b6",
}
INVISIBLE = "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufeff"
