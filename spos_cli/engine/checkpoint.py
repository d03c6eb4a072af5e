"""Write and read weights files: atomic, checksummed, and no code runs on reading."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import pickle
import re
import shlex
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from spos_cli.errors import CheckpointError, RunError
from spos_cli.files.os_errors import reason_of
from spos_cli.files.reading import BEGINNING, explain_beginning
from spos_cli.files.writing import write_atomically

# In PyTorch's message about an object of a class that it does not know; a name without a module is one of Python's own,
# such as eval. `commands` is what pickle calls subprocess.
UNKNOWN_CLASS = re.compile(r"GLOBAL (\w+)(\.\S+) was not an allowed global")
DANGEROUS_MODULES = (
    *("__builtin__", "builtins", "commands", "importlib", "nt", "os", "posix", "runpy", "shutil", "socket"),
    *("subprocess", "sys"),
)
# A program that saves the tensors of such a file: of a whole model, or of the parts with the usual names.
SAVE_TENSORS = (
    'import torch; c = torch.load({}, map_location="cpu", weights_only=False);'
    ' c = c if isinstance(c, dict) else {{"model": c}};'
    ' p = ("state_dict", "state_dict_ema", "model", "model_ema");'
    ' t = {{k: getattr(v, "state_dict", lambda v=v: v)() for k, v in c.items() if k in p or torch.is_tensor(v)}};'
    " torch.save(t, {})"
)
DIGEST = "digest"  # the key of a checkpoint's digest among its parts
MAX_VALUES = 10**7  # in a checkpoint, with names and containers; a supernet with its optimizer has ten thousand


def serialize(content: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint. Equal content gives equal bytes, whether or not it was loaded before."""
    buffer = io.BytesIO()
    torch.save(_canonical(content), buffer)
    return buffer.getvalue()


def _canonical(value: Any) -> Any:
    """Copy a value so that no container is shared, and all equal strings are.

    Pickle writes an object once and refers to it later, so the bytes would depend on what is shared.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_canonical(item) for item in value)
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, with a digest of its content, which is tensors and plain types.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    write_atomically(path, serialize({**content, DIGEST: fingerprint(content)}))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, and verify its digest where it has one; nothing in it is executed.

    It may be in PyTorch's zip format, whose members have checksums, too, or in the format before PyTorch 1.6, as the
    official checkpoints are.

    Raises:
        CheckpointError: there is no such file, or it is torn, damaged, foreign or unsafe.
        RunError: the file exists, but the system cannot read it.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a weights file")
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    try:
        with path.open("rb") as file:
            if problem := explain_beginning(file.read(BEGINNING)):
                raise CheckpointError(f"{path} is not a weights file, but {problem}")
            if zipfile.is_zipfile(file):
                _check_archive(file, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} is not a weights file: it does not hold named parts")
        _check_values(content)
        expected = content.pop(DIGEST, None)
        actual = fingerprint(content) if expected is not None else None
    except CheckpointError:
        raise
    except MemoryError:
        raise RunError(f"cannot read {path}: there is not enough memory") from None
    except OSError as error:
        # In a torn file, torch may look for a position before the beginning. Other errors come from the system.
        if error.errno in (None, errno.EINVAL):
            raise CheckpointError(f"{path} is not a weights file, or is torn") from None
        raise RunError(f"cannot read {path}: {reason_of(error)}") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is not read: {_explain_refusal(str(error), path)}") from None
    except Exception:  # torch raises almost anything for a torn file
        raise CheckpointError(f"{path} is not a weights file, or is torn") from None
    if actual != expected:
        raise CheckpointError(f"{path} is damaged: its content is not what was saved")
    return content


def _explain_refusal(message: str, path: Path) -> str:
    """Return why PyTorch has refused to read a file, and what to do if it holds an object of a harmless class."""
    match = UNKNOWN_CLASS.search(message)
    if match is None or match[1] in DANGEROUS_MODULES:
        return "it is not a weights file, or holds more than tensors and plain values"
    copy = str(path.with_name(f"{path.stem}-tensors.pth"))
    code = SAVE_TENSORS.format(json.dumps(str(path)), json.dumps(copy))
    return (
        f"it holds a {match[1] + match[2]:.100}, which is more than tensors and plain values. If you trust its author,"
        f" save its tensors in a new file with python -c {shlex.quote(code)} and use that"
    )


def _check_values(content: dict[Any, Any]) -> None:
    """Raise ValueError for content larger than its file: tensors that repeat their bytes, values mentioned often."""
    waiting: list[Any] = [content]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, torch.Tensor) and (
            value.layout != torch.strided
            or value.is_meta
            or value.numel() * value.element_size() > value.untyped_storage().nbytes()
        ):
            raise ValueError("a tensor that is larger than its bytes")
    raise ValueError("too many values")


def _check_archive(file: IO[bytes], path: Path) -> None:
    """Raise CheckpointError if a zip file is compressed, which PyTorch's are not, or damaged."""
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise CheckpointError(f"{path} is not a weights file: it is compressed, and may grow without end")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of tensors and plain types, in hex: of their values, not of how they are stored."""
    digest = hashlib.sha256()
    _feed(value, digest.update)
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[Any], None]) -> None:
    """Feed a value to a hash; kinds and lengths keep different values apart."""
    if isinstance(value, torch.Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            _feed(key, update)
            _feed(item, update)
    elif isinstance(value, list | tuple):
        update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)} ".encode())
        for item in value:
            _feed(item, update)
    else:
        text = str(value) if isinstance(value, str) else repr(value)
        update(f"{type(value).__name__} {len(text)} {text} ".encode("utf-8", "surrogatepass"))
