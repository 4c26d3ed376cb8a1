"""SSH signatures of what a run folder claims, made and checked by OpenSSH's own `ssh-keygen -Y`.

`claim.json` and `accepted.json` name the digest of all records, so that a signature of the file is
one of the records. It stands beside the file, under its name and `.sig`. OpenSSH is what people
have keys for, and it knows agents, passphrases and keys in hardware.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import UserError

NAMESPACE = "t2i-backdoor-bench"  # a signature made for another purpose counts for nothing here
ENDING = ".sig"
MOST_BYTES = 2**16  # of a signature; one of an RSA key of 16,384 bits takes 6 KB
SECONDS = 60.0


@dataclass(frozen=True)
class Signature:
    """What a file's signature shows. `key` is the fingerprint; `name` is who the reader's own list
    says has that key."""

    valid: bool = False
    key: str = ""
    name: str = ""
    trouble: str = ""  # why it could not be checked

    @property
    def text(self) -> str:
        if self.trouble:
            return f"signed, and not checked: {self.trouble}"
        if not self.valid:
            return "its signature is not of this file"
        who = f" of {self.name}" if self.name else ", which is in no list of known keys"
        return f"signed with the key {self.key}{who}"


def sign(path: Path, key: Path) -> None:
    """Write `path`.sig, by a private key, or by a public one whose private half an agent holds.
    Raises UserError."""
    beside(path).unlink(missing_ok=True)  # ssh-keygen would ask
    words = ["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(path)]
    # no limit of time: it may ask for a passphrase
    done = _keygen(words, b"", None)
    if done.returncode or not beside(path).is_file():
        raise UserError(f"{key} cannot sign: {_said(done)}")


def check_key(key: Path | None) -> None:
    """Raise UserError where a key is asked for that is no file."""
    if key and not key.is_file():
        raise UserError(
            f"there is no key {key}: name the file of an SSH key, such as ~/.ssh/id_ed25519"
        )


def check_list(known: Path | None) -> None:
    """Raise UserError where a list of known keys is asked for that is no file."""
    if known and not known.is_file():
        raise UserError(f"there is no list of known keys {known}: one `NAME KEYTYPE KEY` a line")


def beside(path: Path) -> Path:
    return path.with_name(path.name + ENDING)


def check(path: Path, known: Path | None = None) -> Signature | None:
    """The signature of a file, or None where it has none. `known` lists keys by name in OpenSSH's
    form of allowed signers, one `NAME KEYTYPE KEY` a line. Raises UserError where that list cannot
    be read."""
    mark = beside(path)
    if not mark.is_file() or mark.is_symlink():
        return None
    if mark.stat().st_size > MOST_BYTES:
        return Signature()
    data = path.read_bytes()
    try:
        done = _keygen(["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(mark)], data)
    except UserError as error:
        return Signature(trouble=str(error))
    if done.returncode:
        return Signature()
    key = next((w for w in _said(done).split() if w.startswith("SHA256:")), "")
    return Signature(True, key, _name(mark, data, known) if known else "")


def _name(mark: Path, data: bytes, known: Path) -> str:
    """Who has the key of a signature, of a list of known ones, or nothing."""
    check_list(known)
    asked = ["-Y", "find-principals", "-s", str(mark), "-f", str(known)]
    found = _keygen(asked, b"").stdout.decode(errors="replace").split("\n")[0].strip()
    if not found:
        return ""
    words = ["-Y", "verify", "-f", str(known), "-I", found, "-n", NAMESPACE, "-s", str(mark)]
    return found if _keygen(words, data).returncode == 0 else ""


def _keygen(
    words: list[str], given: bytes, seconds: float | None = SECONDS
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *words], input=given, capture_output=True, timeout=seconds, check=False
        )
    except FileNotFoundError:
        raise UserError("ssh-keygen is missing: install OpenSSH") from None
    except subprocess.TimeoutExpired:
        raise UserError("ssh-keygen gave no answer") from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stdout + done.stderr).decode(errors="replace").strip()
    return text.replace("\n", "; ") or "ssh-keygen says nothing of the reason"
