"""Feeds hostile inputs to edgellm's file readers, in a process whose memory is limited.

Run as `python hostile_child.py FOLDER COUNT SEED [ONLY]`; prints a JSON report. Each input must be
read, or be refused by an error of edgellm's own, within a second and without allocating more than
the input's size plus 64 MiB.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import hostile_inputs
import small_models

from edgellm import checkpoint, rope, safetensors, tokenizer
from edgellm.errors import EdgeError, FormatError

SECONDS = 1.0
HEADROOM = 64 << 20
TEXT = "the lamp <s> in <|im_end|> \u00fc\U0001f600 12345  \n\t the"

Mutate = Callable[[random.Random], bytes]


class TooLongError(BaseException):
    """An input took longer than a second; no handler of ordinary errors catches it."""


def use(path: Path) -> None:
    """Everything that reading a model does, short of computing with it."""
    model = checkpoint.open(path)
    for tensor in model.tensors.values():
        values = tensor.float32()
        if values.shape != tensor.shape:
            raise AssertionError(f"{tensor.name} has shape {values.shape}, not {tensor.shape}")
    for table in model.config.ropes:
        rope.rope_table(table, 64, 64)
    if model.tokenizer is not None:
        tokens = tokenizer.make(model.tokenizer)
        ids = tokens.encode(TEXT, add_special=True, parse_special=True)
        if not all(0 <= token < tokens.size for token in ids):
            raise AssertionError(f"token ids outside the vocabulary of {tokens.size}: {ids}")
        tokens.decode(ids)
        stream = tokens.stream()
        for token in range(tokens.size):
            stream.push(token)
        stream.flush()


def targets(folder: Path) -> list[tuple[str, Path, Path, Mutate, int]]:
    """Name, file to overwrite, path to open, mutator and weight of each kind of input."""
    found: list[tuple[str, Path, Path, Mutate, int]] = []
    for architecture in ("llama", "gpt2", "gemma3", "phi3", "qwen2", "lfm2"):
        file = folder / f"{architecture}.gguf"
        small_models.write_gguf(file, architecture)
        found.append(("gguf", file, file, hostile_inputs.GGUFInput(file).mutate, 5))
    for family in ("llama", "qwen2", "gpt2"):
        model = folder / family
        small_models.write_folder(model, family)
        weights = model / "model.safetensors"
        found.append(
            ("safetensors", weights, model, hostile_inputs.SafetensorsInput(weights).mutate, 10)
        )
        for name, weight in (
            ("config.json", 10),
            ("tokenizer.json", 9),
            ("tokenizer_config.json", 1),
            ("generation_config.json", 1),
        ):
            file = model / name
            mutate = hostile_inputs.JSONInput(json.loads(file.read_text())).mutate
            found.append((name, file, model, mutate, weight))
    model = folder / "split"
    small_models.write_folder(model, "qwen2")
    small_models.split_weights(model)
    file = model / safetensors.INDEX
    mutate = hostile_inputs.JSONInput(json.loads(file.read_text())).mutate
    found.append((file.name, file, model, mutate, 2))
    model = folder / "spm"
    small_models.write_folder(model, "llama", spm=True)
    file = model / "tokenizer.model"
    found.append(
        ("tokenizer.model", file, model, hostile_inputs.BytesInput(file.read_bytes()).mutate, 5)
    )
    return found


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit_memory(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def on_alarm(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def attempt(path: Path, use: Callable[[Path], None] = use) -> tuple[str, str]:
    """What became of one input, and the error's text or traceback."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        use(path)
    except FormatError as error:
        text = str(error)
        bad = "\n" in text or len(text) > 1000
        return ("ugly error" if bad else "refused"), text
    except EdgeError as error:
        return "wrong error", repr(error)
    except TooLongError:
        return "too long", traceback.format_exc()
    except MemoryError:
        return "too much memory", traceback.format_exc()
    except Exception:
        return "crash", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", ""


def main(folder: Path, count: int, seed: int, only: str | None) -> dict[str, object]:
    kinds = [target for target in targets(folder) if only in (None, target[0])]
    sound = {file: file.read_bytes() for _, file, _, _, _ in kinds}
    for _, _, path, _, _ in kinds:
        use(path)  # the sound files; this also imports everything
    signal.signal(signal.SIGPROF, on_alarm)
    outcomes: dict[str, dict[str, int]] = {}
    failures: list[dict[str, object]] = []
    slowest = 0.0
    weights = [target[4] for target in kinds]
    gc.collect()
    used = address_space()
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        name, file, path, mutate, _ = rng.choices(kinds, weights)[0]
        raw = mutate(rng)
        file.unlink()  # a map of the last input may live on; never change a mapped file
        file.write_bytes(raw)
        limit_memory(used + HEADROOM + len(raw))
        before = time.process_time()
        outcome, text = attempt(path)
        slowest = max(slowest, time.process_time() - before)
        file.unlink()
        file.write_bytes(sound[file])
        kind = outcomes.setdefault(name, {})
        kind[outcome] = kind.get(outcome, 0) + 1
        if outcome not in ("read", "refused") and len(failures) < 20:
            failures.append({"input": number, "kind": name, "outcome": outcome, "text": text})
    return {"outcomes": outcomes, "failures": failures, "slowest": slowest}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    report = main(
        Path(arguments[0]),
        int(arguments[1]),
        int(arguments[2]),
        arguments[3] if len(arguments) > 3 else None,
    )
    print(json.dumps(report))
