"""Load by wrk: real bodies, each request's with a picture that has not been sent before, paced where it is to be."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.processes import Server

_SCRIPT = """\
-- of benchmarks.serving.load; arguments: folder, number of bodies, alphabet, content type, path, think time in ms
local heads, tail, alphabet, think, n = {}, "", "digits", 0, 0
local codes = {}

local function whole(path)
  local file = assert(io.open(path, "rb"))
  local data = file:read("*a")
  file:close()
  return data
end

init = function(args)
  local folder, bodies = args[1], tonumber(args[2])
  alphabet, think = args[3], tonumber(args[6])
  for i = 1, bodies do heads[i] = whole(folder .. "/head" .. (i - 1)) end
  tail = whole(folder .. "/tail")
  local signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for i = 0, 999 do
    local text = string.format("%03d", i)
    if alphabet == "base64" then
      local a, b, c = text:byte(1, 3)
      local bits, out = a * 65536 + b * 256 + c, ""
      for shift = 18, 0, -6 do
        local place = math.floor(bits / 2 ^ shift) % 64 + 1
        out = out .. signs:sub(place, place)
      end
      text = out
    end
    codes[i] = text
  end
  wrk.method, wrk.path = "POST", args[5]
  wrk.headers["Content-Type"] = args[4]
  n = tonumber(args[7])
  math.randomseed(n)
  for _ = 1, 10 do math.random() end
  if think > 0 then -- wrk takes a longer way where there is such a function
    delay = function() return math.floor(0.5 - think * math.log(1 - math.random())) end
  end
end

-- twelve digits behind the picture's end, which no decoder reads, make it a file that nobody has sent
request = function()
  n = n + 1
  local rest, counter = n, ""
  for _ = 1, alphabet == "none" and 0 or 4 do
    counter = codes[rest % 1000] .. counter
    rest = math.floor(rest / 1000)
  end
  return wrk.format(nil, nil, nil, heads[n % #heads + 1] .. counter .. tail)
end

done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"n_requests": %d, "seconds": %f, "p50": %f, "p99": %f, "max": %f, "n_refused": %d, "n_lost": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""

BOUNDARY = "benchmark-boundary-7d1c"


@dataclass(frozen=True)
class Form:
    """How a server takes a picture.

    Attributes
    ----------
    path, content_type : str
    before, after : bytes
        The body around the picture.
    base64 : bool
        The picture is written as base64 text.
    """

    path: str
    content_type: str
    before: bytes = b""
    after: bytes = b""
    base64: bool = False

    def head(self, picture: bytes) -> bytes:
        """The body up to the digits that make the picture a new one."""
        if self.base64:
            picture = base64.b64encode(picture + b"\0" * (-len(picture) % 3))
        return self.before + picture

    def body(self, picture: bytes) -> bytes:
        """A whole body."""
        return self.before + (base64.b64encode(picture) if self.base64 else picture) + self.after


def multipart(path: str, field: str) -> Form:
    """A file of a form."""
    before = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="picture"\r\nContent-Type: image/png\r\n\r\n'
    return Form(path, f"multipart/form-data; boundary={BOUNDARY}", before.encode(), f"\r\n--{BOUNDARY}--\r\n".encode())


@dataclass(frozen=True)
class Load:
    """Results of one run of wrk.

    Attributes
    ----------
    n_requests, n_refused, n_lost : int
        Answers; those with a status that is an error; requests without an answer.
    seconds : float
    p50, p99, max : float
        Latency in ms.
    cpu_ms : float
        CPU time of the server's whole tree by answer.
    """

    n_requests: int
    n_refused: int
    n_lost: int
    seconds: float
    p50: float
    p99: float
    max: float
    cpu_ms: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.n_requests - self.n_refused) / self.seconds


class Loader:
    """wrk with the bodies of some pictures in one form.

    Parameters
    ----------
    pictures : sequence of bytes
    form : Form
    place : Path
        A folder for the bodies and the script.
    new : bool
        Each request's picture is one that was not sent before; else they come again and again.
    """

    def __init__(self, pictures: Sequence[bytes], form: Form, place: Path, *, new: bool = True) -> None:
        self.form, self.n_bodies = form, len(pictures)
        self.alphabet = "none" if not new else "base64" if form.base64 else "digits"
        self.folder = Path(tempfile.mkdtemp(dir=place))
        for i, picture in enumerate(pictures):
            (self.folder / f"head{i}").write_bytes(form.head(picture))
        (self.folder / "tail").write_bytes(form.after)
        (self.folder / "load.lua").write_text(_SCRIPT, encoding="utf-8")

    def start(self, server: Server, *, connections: int, seconds: float, rate: float | None = None) -> subprocess.Popen[str]:
        """Start wrk; see :meth:`run`."""
        think = 1000 * connections / rate if rate else 0.0
        first = int(time.time() * 1000) % 10**12  # far fewer than 1,000 requests a ms, so that no counter comes twice
        words = [str(self.folder), str(self.n_bodies), self.alphabet]
        words += [self.form.content_type, self.form.path, f"{think:.3f}", str(first)]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "15s"]
        command += ["-s", str(self.folder / "load.lua"), server.address, "--", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, server: Server, *, connections: int, seconds: float, rate: float | None = None) -> Load:
        """Ask a server for some seconds.

        Parameters
        ----------
        server : Server
        connections : int
            Kept alive; each has one request under way at most.
        seconds : float
            Rounded to whole ones, at least 1.
        rate : float, optional
            Requests a second: each connection rests between requests, by an exponential distribution. None: as many as it can.
        """
        before = server.cpu_seconds()
        return finished(self.start(server, connections=connections, seconds=seconds, rate=rate), server, before)


def finished(wrk: subprocess.Popen[str], server: Server, cpu_before: float) -> Load:
    """Results of a wrk that was started, once it has ended."""
    output, _ = wrk.communicate()
    lines = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
    if wrk.returncode or not lines:
        raise RuntimeError(f"wrk failed on {server.name}: {output[-1000:]}")
    result = json.loads(lines[0])
    cpu_ms = 1000 * (server.cpu_seconds() - cpu_before) / max(1, result["n_requests"])
    return Load(cpu_ms=cpu_ms, **result)


def check_wrk() -> None:
    """End with one sentence where wrk is missing."""
    if shutil.which("wrk") is None:
        sys.exit("error: wrk is not installed: install it (a package of that name), or leave out the rows that need load")
