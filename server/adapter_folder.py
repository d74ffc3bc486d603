"""The folder of an adapter that a request names: only under one root, only with files that cannot run.

A path is followed to where it really lies before it is judged, with every link in it, and so are the files in the
folder. What is not there and what is elsewhere are told alike, so that nobody learns what the machine holds.
"""

from __future__ import annotations

from pathlib import Path

from server.errors import ApiError

_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_ALLOWED = frozenset({".safetensors", ".json", ".md", ".txt", ".csv", ".yaml", ".png"})


def find_adapter(root: Path | None, given: str) -> Path:
    """Return the folder that ``given`` names, relative to the root or whole; raises `ApiError`."""
    if root is None:
        message = "this service loads no adapters by request; EMOLLAMA_ADAPTER_ROOT turns it on"
        raise ApiError("adapter_not_allowed", message, param="lora_path")
    refused = ApiError(
        "adapter_not_allowed", "lora_path is not a folder under the service's adapter root", param="lora_path"
    )
    try:
        top = root.resolve(strict=True)
        folder = (top / given).resolve(strict=True)
        is_inside = folder.is_dir() and folder != top and folder.is_relative_to(top)
    except (OSError, ValueError, RuntimeError) as exc:
        raise refused from exc
    if not is_inside:
        raise refused
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()[:100]
        if not path.resolve().is_relative_to(top):
            raise refused
        if path.is_file() and path.suffix.lower() not in _ALLOWED:
            allowed = ", ".join(sorted(_ALLOWED))
            message = f"the adapter's folder holds {name!r}; allowed are files that hold data alone: {allowed}"
            raise ApiError("invalid_adapter", message, param="lora_path")
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise ApiError("invalid_adapter", f"the adapter's folder has no {name}", param="lora_path")
    return folder
