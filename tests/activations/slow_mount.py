"""A slow file system over a folder, by FUSE, as a job sees a shared one whose data is larger than its memory.

Nothing is cached, a read that does not go on where the last one of its file ended waits for a seek, and all reads share
one line. `python slow_mount.py FOLDER MOUNTPOINT LOG SEEK RATE`: seconds, bytes a second; LOG gets the bytes read.
"""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def missing() -> str:
    """Why there can be no such mount here; empty if there can."""
    try:
        import fuse  # noqa: F401
    except (ImportError, OSError) as error:
        return f"fusepy does not work here ({error}): pip install fusepy, and the system's libfuse2"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    return "" if shutil.which("fusermount") or os.geteuid() == 0 else "no fusermount, and not root"


@contextmanager
def mounted(folder: Path, point: Path, seek: float = 0.0, rate: float = float("inf")) -> Iterator[Path]:
    """`folder` at `point` while the block lasts; yields the file with the bytes read so far."""
    point.mkdir()
    log = point.with_name(f"{point.name}.read")
    server = subprocess.Popen([sys.executable, __file__, folder, point, log, str(seek), str(rate)])
    try:
        for _ in range(200):
            if os.path.ismount(point):
                break
            time.sleep(0.05)
        yield log
    finally:
        subprocess.run(["umount", "--lazy", point], check=False, timeout=30)
        server.wait(timeout=30)


def main(folder: Path, point: str, log: Path, seek: float, rate: float) -> None:
    """Serve until it is unmounted."""
    import fuse

    class Slow(fuse.Operations):  # type: ignore[misc]
        def __init__(self) -> None:
            self._line, self._ends, self._bytes = threading.Lock(), dict[int, int](), 0

        def _path(self, path: str) -> Path:
            return folder / path.lstrip("/")

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            try:
                found = self._path(path).lstat()
            except FileNotFoundError:
                raise fuse.FuseOSError(errno.ENOENT) from None
            return {
                key: getattr(found, key) for key in ("st_mode", "st_size", "st_mtime", "st_nlink", "st_uid", "st_gid")
            }

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *(found.name for found in self._path(path).iterdir())]

        def open(self, path: str, flags: int) -> int:
            return os.open(self._path(path), os.O_RDONLY)

        def release(self, path: str, fh: int) -> int:
            self._ends.pop(fh, None)
            os.close(fh)
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            found = os.pread(fh, size, offset)
            with self._line:
                time.sleep((seek if self._ends.get(fh) != offset else 0.0) + len(found) / rate)
                self._ends[fh] = offset + len(found)
                self._bytes += len(found)
                log.write_text(str(self._bytes))
            return found

    fuse.FUSE(Slow(), point, foreground=True, ro=True, direct_io=True, max_read=1 << 17)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
