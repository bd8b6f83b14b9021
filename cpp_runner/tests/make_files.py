"""Makes tensor files, keys, and signed copies of `tiny.pt` for the C++ tests.

    python make_files.py FOLDER

Runs after make_artefacts.py, which writes `tiny.pt` into the folder.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save_file

NUMBERS = torch.tensor([[0.5, -1.25, 3.0], [7.0, 0.1, -0.2]])


def make_signatures(folder: Path) -> None:
    """Write keys, and signed copies of `tiny.pt`."""
    ours, other = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))

    def pem(*keys: Any) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return b"".join(k.public_key().public_bytes(serialization.Encoding.PEM, form) for k in keys)

    data = (folder / "tiny.pt").read_bytes()
    (folder / "ours.pem").write_bytes(pem(ours))
    (folder / "both.pem").write_bytes(pem(other, ours))
    (folder / "other.pem").write_bytes(pem(other))
    (folder / "rsa.pem").write_bytes(pem(rsa.generate_private_key(65537, 2048)))
    (folder / "empty.pem").write_bytes(b"no key here\n")
    (folder / "damaged.pem").write_bytes(pem(ours).replace(b"M", b"?", 1))
    signature = ours.sign(data)
    for name, content in (
        ("signed", signature),
        ("short_signature", signature[:63]),
        ("wrong_signature", bytes([signature[0] ^ 1]) + signature[1:]),
    ):
        (folder / f"{name}.pt").write_bytes(data)
        (folder / f"{name}.pt.sig").write_bytes(content)
    # Not archives: they show that the signature is checked before the archive is parsed.
    (folder / "signed_junk.pt").write_bytes(b"junk")
    (folder / "signed_junk.pt.sig").write_bytes(ours.sign(b"junk"))
    (folder / "unsigned_junk.pt").write_bytes(b"junk")
    (folder / "unsigned_junk.pt.sig").write_bytes(signature)


def make_tensors(folder: Path) -> None:
    """Write npy, npz and safetensors files with the numbers that the C++ tests expect."""
    grid = np.arange(6, dtype="<f4").reshape(2, 3)
    arrays: dict[str, Any] = {
        "c_order": grid,
        "fortran": np.asfortranarray(grid),
        "fortran_3d": np.asfortranarray(np.arange(24, dtype="<i8").reshape(2, 3, 4)),
        "scalar": np.array(2.5, "<f8"),
        "vector": np.arange(5, dtype="<u2"),
        "empty": np.zeros((0, 3), "<f4"),
        "truth": np.array([True, False]),
        "half": np.array([0.5, -2.0], "<f2"),
        "big_endian": grid.astype(">f4"),
        "text": np.array("grüße 🚢"),
        "texts": np.array(["a", "b"]),
        "complex": np.zeros(2, "<c8"),
        "records": np.zeros(2, [("a", "<f4")]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    for major in (2, 3):
        with (folder / f"version{major}.npy").open("wb") as file:
            np.lib.format.write_array(file, grid, version=(major, 0))
    np.savez(folder / "stored.npz", x=grid, y=arrays["vector"])
    np.savez_compressed(folder / "deflated.npz", x=np.tile(grid, (100, 1)), y=arrays["vector"])
    np.savez(folder / "numbers.npz", x=NUMBERS.numpy())
    np.savez(folder / "positional.npz", NUMBERS.numpy())
    np.save(folder / "numbers.npy", NUMBERS.numpy())
    dtypes = (
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
    every = {str(d).removeprefix("torch."): torch.tensor([[1, 0, 1]]).to(d) for d in dtypes}
    save_file(every, folder / "every.safetensors", {"made by": "the tests"})
    save_file({"x": NUMBERS}, folder / "numbers.safetensors")
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (folder / "by_hand.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0)
    )


if __name__ == "__main__":
    make_signatures(Path(sys.argv[1]))
    make_tensors(Path(sys.argv[1]))
