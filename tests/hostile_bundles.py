"""Opens hostile bundles, in a process whose memory is limited.

Run as `python tests/hostile_bundles.py FOLDER COUNT SEED`; prints a JSON report. Half of the inputs
are a sound bundle with bytes changed, and must be refused. The rest were made so by somebody who
could sign them: each must open or be refused by an error of edgellm's own, within a second and
without allocating more than the input's size plus 64 MiB.
"""

from __future__ import annotations

import copy
import functools
import gc
import hashlib
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hostile_child
import hostile_inputs
import msgpack
import small_bundle

from edgellm import bundle, manifest, signing, tokenizer
from edgellm.key_folder import KeyFolder


class Structure(hostile_inputs.JSONInput):
    """Sound data as msgpack has it, and what can be done to its values."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.paths = list(hostile_inputs._paths(found))

    def mutate(self, rng: random.Random) -> bytes:
        found = copy.deepcopy(self.found)
        for _ in range(rng.choice([1, 1, 2, 3])):
            self._mutate_value(found, rng)
        raw: bytes = msgpack.packb(found, unicode_errors="surrogatepass", default=str)
        return raw


class BundleInput:
    """A sound bundle, taken apart."""

    def __init__(self, path: Path, keys: KeyFolder) -> None:
        self.raw, self.keys = path.read_bytes(), keys
        header, self.manifest, _ = bundle._frame(memoryview(self.raw), str(path))
        self.blobs = self.raw[: header.manifest_offset]
        self.content = msgpack.unpackb(self.manifest, unicode_errors="surrogatepass")
        (place,) = (i for i, b in enumerate(self.content["blobs"]) if b["name"] == bundle.TOKENIZER)
        self.place = place
        told = self.content["blobs"][place]
        self.vocabulary = self.blobs[told["offset"] :][: told["nbytes"]]
        self.structures = [
            Structure(self.content),
            Structure(msgpack.unpackb(self.vocabulary, unicode_errors="surrogateescape")),
        ]

    def mutate(self, rng: random.Random) -> tuple[str, bytes]:
        """The name of a kind of mutation, and the bytes."""
        chance = rng.randrange(8)
        if chance < 4:
            out = self.raw
            while out == self.raw:
                out = hostile_inputs.BytesInput(self.raw).mutate(rng)
            return "changed", out
        if chance == 4:
            raw = hostile_inputs.BytesInput(self.manifest).mutate(rng)
            return "signed manifest's bytes", self.signed(self.blobs, raw)
        if chance == 5:
            return "signed manifest", self.signed(self.blobs, self.structures[0].mutate(rng))
        if chance == 6:
            return "signed vocabulary", self.with_vocabulary(self.structures[1].mutate(rng))
        return "signed nonsense", self.signed(self.blobs, nonsense(rng))

    def with_vocabulary(self, vocabulary: bytes) -> bytes:
        """The bundle with another vocabulary, put behind the rest of its blobs."""
        content = copy.deepcopy(self.content)
        blobs = content["blobs"]
        blobs[self.place]["name"] = "the former vocabulary"
        about = {"name": bundle.TOKENIZER, "offset": len(self.blobs), "nbytes": len(vocabulary)}
        blobs.append({**about, "sha256": hashlib.sha256(vocabulary).hexdigest()})
        gap = bytes(-len(vocabulary) % manifest.ALIGNMENT)
        raw = msgpack.packb(content, unicode_errors="surrogatepass")
        return self.signed(self.blobs + vocabulary + gap, raw)

    def signed(self, blobs: bytes, raw: bytes) -> bytes:
        """A bundle of these blobs and this manifest, whose hashes and signature are right."""
        header = bundle.Header(len(blobs), len(raw), hashlib.sha256(raw).digest()).pack()
        signatures = bundle.pack_signatures(signing.sign(header, self.keys))
        return header + blobs[len(header) :] + raw + signatures


def nonsense(rng: random.Random) -> bytes:
    """msgpack that asks for much: nesting, and lists longer than the file."""
    mark = rng.choice(
        [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x7f\xff", b"\xdc\xff\xff", b"\xdf\xff"]
    )
    return mark * rng.choice([1, 30, 600, 5000]) + rng.randbytes(rng.randrange(9))


def use(path: Path, keys: KeyFolder) -> None:
    opened = bundle.open(path, keys)
    for tensor in opened.tensors.values():
        bytes(tensor.data[:1])
    if opened.tokenizer is None:
        raise AssertionError("a bundle without a vocabulary")
    made = tokenizer.make(opened.tokenizer)
    made.decode(made.encode(hostile_child.TEXT, add_special=True, parse_special=True))
    opened.graph.plan()


def main(folder: Path, count: int, seed: int) -> dict[str, object]:
    keys, path = KeyFolder(folder / "keys"), folder / "small.edge"
    small_bundle.write_bundle(path, keys, library=b"\x7fELF", only_small=True)
    sound = BundleInput(path, keys)
    opens = functools.partial(use, keys=keys)
    opens(path)  # this also imports everything
    signal.signal(signal.SIGPROF, hostile_child.on_alarm)
    outcomes: dict[str, dict[str, int]] = {}
    failures: list[dict[str, object]] = []
    slowest = 0.0
    gc.collect()
    used = hostile_child.address_space()
    for number in range(count):
        kind, raw = sound.mutate(random.Random(seed * 1_000_003 + number))
        path.unlink()  # a map of the last input may live on; never change a mapped file
        path.write_bytes(raw)
        hostile_child.limit_memory(used + hostile_child.HEADROOM + len(raw))
        before = time.process_time()
        outcome, text = hostile_child.attempt(path, opens)
        slowest = max(slowest, time.process_time() - before)
        if outcome == "wrong error" and "TrustError" in text:
            outcome = "refused"
        found = outcomes.setdefault(kind, {})
        found[outcome] = found.get(outcome, 0) + 1
        good = ("refused",) if kind == "changed" else ("read", "refused")
        if outcome not in good and len(failures) < 20:
            failures.append({"input": number, "kind": kind, "outcome": outcome, "text": text})
    return {"outcomes": outcomes, "failures": failures, "slowest": slowest}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
