"""A machine without a C++ compiler, as seen by PyTorch."""

from pathlib import Path


def without_compiler(folder: Path) -> dict[str, str]:
    """Environment variables with which nothing can be compiled, and nothing that was compiled before is found."""
    return {"CXX": str(folder / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
