"""Measure the speed and the memory of preprocessing on synthetic images.

    python benchmarks/preprocessing.py [--small 50000] [--photos 2000]

Prints, for small PNG files and for photo-sized JPEG files and for one and two workers, images per second and the peak resident memory
of the process and its children above the start. Each measurement has a process of its own, for memory that was freed may stay resident.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bccp.data import preprocessing


def make_archive(path: Path, n_images: int, size: int, file_format: str) -> None:
    """Write a zip of smooth colour patterns with some noise, ten classes, every image another."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(n_images):
            pattern = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
            noisy = np.asarray(pattern, dtype=np.int16) + rng.integers(-8, 9, (size, size, 1), dtype=np.int16)
            buffer = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, file_format)
            archive.writestr(f"class{i % 10}/{i:06d}.{file_format.lower()}", buffer.getvalue())


def resident_bytes() -> int:
    """Resident memory of this process and its children, from /proc."""
    tree, total = ["self"], 0
    while tree:
        process = Path("/proc") / tree.pop()
        try:
            total += int((process / "statm").read_text().split()[1]) * 4096
            tree += [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue  # it ended meanwhile
    return total


def measure(archive: Path, image_size: int, threads: int) -> dict[str, float]:
    """Clean one archive; images per second, and MB of memory above the start."""
    start, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        report = preprocessing.clean(
            archive,
            Path(folder),
            image_size=image_size,
            resize="stretch",
            max_rejected_rate=0.0,
            max_pixels=100_000_000,
            threads=threads,
        )
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return {"rate": report["images"] / seconds, "megabytes": (peak - start) / 1e6}


def main() -> None:
    """Make the images, measure each case in its own process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=50_000, help="number of 32x32 PNG files")
    parser.add_argument("--photos", type=int, default=2_000, help="number of 224x224 JPEG files")
    parser.add_argument("--measure", nargs=3, metavar=("ARCHIVE", "SIZE", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        archive, size, threads = options.measure
        print(json.dumps(measure(Path(archive), int(size), int(threads))))
        return
    print(f"{'files':<24}{'workers':>8}{'images/s':>10}{'peak above start, MB':>22}")
    with tempfile.TemporaryDirectory() as folder:
        for n_images, size, file_format in ((options.small, 32, "PNG"), (options.photos, 224, "JPEG")):
            archive = Path(folder) / f"{file_format}.zip"
            make_archive(archive, n_images, size, file_format)
            for threads in (1, 2):
                command = [sys.executable, __file__, "--measure", str(archive), str(size), str(threads)]
                figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                name = f"{n_images} {file_format} {size}x{size}"
                print(f"{name:<24}{threads:>8}{figures['rate']:>10.0f}{figures['megabytes']:>22.0f}", flush=True)


if __name__ == "__main__":
    main()
