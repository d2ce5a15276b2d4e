"""torch.load(weights_only=True), and nothing else, unpickles; this is the one place that calls it.

It makes tensors and containers and refuses everything else before it is called. What it raises,
about damage or about something it does not allow, becomes an error of ours.
"""

import io
import json
import re
import shlex
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError

from taskalg.checkpoints.archive import Archive, damage
from taskalg.errors import CheckpointError, quoted

SAFE_TORCH = (2, 10)  # CVE-2025-32434 and CVE-2026-24747 get around weights_only in older ones
_REFUSED = re.compile(r"GLOBAL (\S+)")  # in torch's message, what a pickle asked for


def load_without_data(archive: Archive, path: str) -> tuple[object, dict[int, str]]:
    """Return what a pickle holds, its tensors without data.

    torch gets a copy of the archive in which all storages are empty. Where it finds one, it notes
    as `_checkpoint_offset` of the tensor's storage; that tells storages apart.

    Args:
        archive: the archive.
        path: what messages call the file.

    Returns:
        what was unpickled, and the key of each storage by the place in the copy.

    Raises:
        CheckpointError: torch does not allow what is in it, or it is damaged.
    """
    copy, keys = io.BytesIO(), {}
    with zipfile.ZipFile(copy, "w") as records:
        records.writestr("archive/version", b"3\n")
        records.writestr("archive/data.pkl", archive.pickle)
        for key in archive.storages:
            records.writestr(f"archive/data/{key}", b"")
            keys[copy.tell()] = key
    copy.seek(0)
    with _reading(path), _without_data():
        import torch

        return torch.load(copy, map_location="meta", weights_only=True), keys


def load(path: Path) -> object:
    """Return what a pickle holds, all of it in memory.

    Raises:
        CheckpointError: torch does not allow what is in it, or it is damaged.
    """
    with _reading(str(path)):
        import torch

        found: object = torch.load(path, map_location="cpu", weights_only=True)
        return found


def _without_data() -> AbstractContextManager[object]:
    """Make storages know their places: on the meta device, in newer torch."""
    import torch

    if hasattr(torch.serialization, "_is_meta_location"):
        return nullcontext()
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Check torch, keep its warnings to ourselves, and translate what it raises."""
    _check_torch()
    with damage(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NotImplementedError:
            raise CheckpointError(
                f"{quoted(path)} holds a tensor of a kind that no sum has a place for",
                note="it is no plain array of numbers but quantized, sparse or nested",
            ) from None
        except UnpicklingError as error:
            refused = _REFUSED.search(str(error))
            if refused is None:
                raise
            raise _objects(path, refused[1]) from None


def _check_torch() -> None:
    import torch

    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        needed = ".".join(map(str, SAFE_TORCH))
        raise CheckpointError(
            f"torch {torch.__version__} is too old to read pickles with",
            note=f"before {needed} a pickle can run code all the same (CVE-2026-24747)",
            help=f'run: pip install "torch>={needed}"',
        )


def _objects(path: str, wanted: str) -> CheckpointError:
    """Refuse a pickle that asks for more than tensors; a module can be saved anew by its owner."""
    target = f"{path.rpartition('.')[0]}-weights.pt"
    load = f"torch.load({json.dumps(path)}, weights_only=False)"
    line = f"import torch; torch.save({load}.state_dict(), {json.dumps(target)})"
    module, _, last = wanted.rpartition(".")
    is_foreign = bool(module) and module.partition(".")[0] not in sys.stdlib_module_names
    is_class = is_foreign and last[:1].isupper()
    run = f"only if you trust it, run its code and save its weights: python -c {shlex.quote(line)}"
    return CheckpointError(
        f"{quoted(path)} holds Python objects, not only tensors; none was made",
        note=f"it asks for {quoted(wanted)}; to load such a file is to run its code",
        help=run if is_class else "ask whoever made it for the weights alone, as safetensors",
    )
