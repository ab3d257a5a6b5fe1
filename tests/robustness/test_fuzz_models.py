"""Fuzzer of saved models: a damaged file must be refused in a sentence, or give the right embedding."""

import json
import random
import struct
from functools import partial

from fuzz import outcome, run_fuzzer, work

FILE = "model.safetensors"
NUMBERS = (0, -1, 1, 2, 0.5, -0.5, 2**31, 2**63, 10**18, 1e308, None, True, "x", [], {}, [[]])


def flip_bits(rng, content):
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def truncate(rng, content):
    del content[rng.randrange(len(content)) :]


def extend(rng, content):
    content += rng.randbytes(rng.randrange(1, 100))


def blank(rng, content):
    """A block that was not written, as after a power failure."""
    start = rng.randrange(len(content))
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))


def exchange_blocks(rng, content):
    first, second = (rng.randrange(len(content) - 64) for _ in range(2))
    content[first : first + 64], content[second : second + 64] = (
        content[second : second + 64],
        content[first : first + 64],
    )


def change_header_length(rng, content):
    content[:8] = struct.pack("<Q", rng.choice([0, 1, 2**20, 2**40, 2**63, rng.randrange(len(content))]))


def swap_dtype(rng, content):
    """Another type of the same size, as many bytes, in the header of the safetensors file."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    header[name]["dtype"] = rng.choice({"F32": ["I32", "U32"], "F64": ["I64"], "I64": ["F64"]}[header[name]["dtype"]])
    replace_header(content, size, header)


def exchange_tensors(rng, content):
    """Two tensors of the same shape take each other's place."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    pairs = [(a, b) for a in names for b in names if a < b and header[a]["shape"] == header[b]["shape"]]
    a, b = rng.choice(pairs)
    header[a], header[b] = header[b], header[a]
    replace_header(content, size, header)


def replace_header(content, size, header):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content[: 8 + size] = struct.pack("<Q", len(text)) + text


DAMAGES = (flip_bits, truncate, extend, blank, exchange_blocks, change_header_length, swap_dtype, exchange_tensors)


def places(value, path=()):
    """Paths of all entries of nested lists and dictionaries; of a long list, the first ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def forge(rng, header):
    """Change, remove or shorten an entry of sysvi's own header."""
    *path, last = rng.choice(list(places(header)))
    parent = header
    for key in path:
        parent = parent[key]
    kind = rng.choice(["number", "number", "number", "removed", "shortened", "repeated"])
    if kind == "removed":
        del parent[last]
    elif kind == "shortened" and isinstance(parent[last], list):
        del parent[last][1:]
    elif kind == "repeated" and isinstance(parent[last], list):
        parent[last] *= 2
    else:
        parent[last] = rng.choice(NUMBERS)
    return ".".join(map(str, (*path, last)))


def cases(folder, seed):
    import numpy as np

    import sysvi
    from sysvi.model.checkpoint import read_file, write_file

    rng = random.Random(seed)
    adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 100, seed=1), "system", "batch", min_cells=3)
    intact, expected = {}, {}
    for members in (1, 3):
        small = {"max_epochs": 2, "n_hidden": 16, "n_latent": 4, "device": "cpu", "progress": False}
        sysvi.integrate(adata, "system", "batch", members=members, **small).save(folder / str(members))
        intact[members], expected[members] = folder / str(members) / FILE, adata.obsm["X_sysVI"]
    path = folder / FILE

    def load(members, exact):
        embedding = sysvi.load(path, device="cpu").get_latent_representation(adata)
        assert not exact or np.array_equal(embedding, expected[members])

    def attempt(members, content):
        path.write_bytes(content)
        return outcome(partial(load, members, exact=True))

    def attempt_forged(members, tensors, header):
        path.unlink(missing_ok=True)
        write_file(path, tensors, header, overwrite=True)  # with a checksum that fits
        return outcome(partial(load, members, exact=False))

    while True:
        members = rng.choice(list(intact))
        content = bytearray(intact[members].read_bytes())
        damage = rng.choice(DAMAGES)
        damage(rng, content)
        yield damage.__name__, partial(attempt, members, content)
        tensors, header = read_file(intact[members])
        place = forge(rng, header)
        yield f"forge: {place}", partial(attempt_forged, members, tensors, header)


def test_damaged_models():
    run_fuzzer(__file__, n_cases=1000)


if __name__ == "__main__":
    work(cases)
