"""What a kernel with cache allocation needs: packages, a QEMU of our own, Debian's kernel, virtme-ng. Made once."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.errors import VmProblem

GUEST_LIMIT_S = 1800
_BINARY = "qemu-system-x86_64"
_PATCH = Path(__file__).with_name("rdt.patch")
_VIRTME = "virtme-ng==1.42"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FIRMWARE = ("/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu")
_BUILD_PACKAGES = (
    *("bison", "flex", "gcc", "make", "meson", "ninja-build", "patch", "pkg-config", "xz-utils"),
    *("libattr1-dev", "libcap-ng-dev", "libfdt-dev", "libglib2.0-dev", "libpixman-1-dev", "zlib1g-dev"),
)
_RUN_PACKAGES = ("busybox-static", "dbus", "file", "ipxe-qemu", "kmod", "qemu-system-data", "seabios", "systemd")
_CONFIGURE = (
    *("--target-list=x86_64-softmmu", "--without-default-features", "--disable-install-blobs", "--disable-docs"),
    *("--disable-tools", "--disable-kvm", "--enable-tcg", "--enable-virtfs", "--enable-attr", "--enable-cap-ng"),
    "--enable-fdt=system",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Everything that boots the guest."""

    qemu: Path  #: a script that starts our QEMU with its firmware
    kernel: Path
    vng: Path


def cache_folder() -> Path:
    """Return where everything is kept, outside of the tree."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "cotenant"


def check_host() -> None:
    """Raise VmProblem where the tools cannot be made; writes nothing."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise VmProblem(f"the guest is built for x86_64 Linux, this is {platform.machine()} {platform.system()}")
    if shutil.which("apt-get") is None:
        raise VmProblem("apt-get is missing: packages, kernel and QEMU's source come from Debian; use a Debian machine")
    if os.geteuid() != 0:
        raise VmProblem("root is needed, to install packages and to be root in the guest; run it as root")


def prepare(cache: Path) -> Toolchain:
    """Return the tools, making what is missing; raises VmProblem saying what to do."""
    _install(_RUN_PACKAGES, cache)
    return Toolchain(qemu=_qemu(cache), kernel=_kernel(cache), vng=_virtme(cache))


def say(text: str) -> None:
    """Tell the user what happens now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, with all it started there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
    process.wait(10)


def _qemu(cache: Path) -> Path:
    version = _known_to_apt("qemu-system-data", cache).split(":")[-1].rpartition("-")[0]
    key = hashlib.sha256(_PATCH.read_bytes() + b"\0" + version.encode()).hexdigest()[:12]
    done = cache / f"qemu-{key}"
    if (done / _BINARY).exists():
        say(f"QEMU {version} with RDT: kept in {done}")
        return _start_script(done)
    _install(_BUILD_PACKAGES, cache)
    work = cache / f"qemu-{key}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / "build.log"
    say(f"QEMU {version}: fetching the source (about 25 MB) ...")
    source = _source(work, log)
    _run(["patch", "-p1", "--forward", f"--input={_PATCH}"], log=log, limit_s=60, folder=source)
    # Debian's source has no firmware images; the build only wants those to be there.
    for name in re.findall(r"edk2-[\w-]+\.fd", (source / "pc-bios/meson.build").read_text(encoding="utf-8")):
        (source / "pc-bios" / f"{name}.bz2").touch()
    build = source / "build"
    build.mkdir(exist_ok=True)
    say(f"QEMU {version}: compiling, three to ten minutes, once; see {log} ...")
    _run(["nice", "-n", "10", "../configure", *_CONFIGURE], log=log, limit_s=600, folder=build)
    _run(["nice", "-n", "10", "ninja", _BINARY], log=log, limit_s=5400, folder=build)
    shutil.copy2(build / _BINARY, work)
    shutil.rmtree(source)
    for archive in work.glob("qemu_*"):
        archive.unlink()
    shutil.rmtree(work / "lists")
    shutil.rmtree(done, ignore_errors=True)
    work.rename(done)
    return _start_script(done)


def _start_script(folder: Path) -> Path:
    """Write what starts our QEMU with its firmware; it ends itself even if nobody is left to end it."""
    firmware = " ".join(f"-L {one}" for one in _FIRMWARE)
    limit = f"timeout --foreground --kill-after=10 {GUEST_LIMIT_S}"
    script = folder / "qemu"
    script.write_text(f'#!/bin/sh\nexec {limit} nice -n 10 "${{0%/*}}/{_BINARY}" {firmware} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return script


def _source(work: Path, log: Path) -> Path:
    """Fetch and unpack QEMU's source with a package list of our own; the machine's lists stay as they are."""
    wanted = "$(SITE) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    told = _output(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"])
    places = {tuple(line.split()[:3]) for line in told.splitlines() if line.split()[2:] == ["main", "Debian"]}
    if not places:
        raise VmProblem("apt knows no package source of Debian's main section; add one and run apt-get update")
    lines = [f"deb-src [signed-by={_KEYRING}] {' '.join(place)}\n" for place in sorted(places)]
    (work / "sources.list").write_text("".join(lines), encoding="utf-8")
    (work / "lists/partial").mkdir(parents=True)
    options = [
        *("-o", f"Dir::Etc::SourceList={work}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={work}/lists", "-o", "APT::Sandbox::User=root"),
    ]
    _run(["apt-get", "-q", *options, "update"], log=log, limit_s=600)
    fetch = ["apt-get", "-q", *options, "source", "--download-only", "--tar-only", "qemu"]
    _run(fetch, log=log, limit_s=1200, folder=work)
    archives = list(work.glob("qemu_*.orig.tar.*"))
    if len(archives) != 1:
        raise VmProblem(f"expected one source archive of QEMU in {str(work)!r}, found {sorted(map(str, archives))}")
    _run(["tar", "-xf", str(archives[0])], log=log, limit_s=300, folder=work)
    return next(folder for folder in work.glob("qemu-*") if folder.is_dir())


def _kernel(cache: Path) -> Path:
    """Return Debian's kernel, unpacked beside the rest: what this machine boots is not touched."""
    _known_to_apt("linux-image-amd64", cache)
    found = re.search(r"Depends: (linux-image-\S+)", _output(["apt-cache", "depends", "linux-image-amd64"]))
    if found is None:
        raise VmProblem("apt does not know which kernel 'linux-image-amd64' stands for; run apt-get update")
    done = cache / found[1]
    image = done / "boot" / found[1].replace("linux-image", "vmlinuz")
    if image.exists():
        say(f"kernel {found[1]}: kept in {done}")
        return image
    say(f"kernel {found[1]}: fetching (about 70 MB) ...")
    work = cache / f"{found[1]}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / "kernel.log"
    options = ["-o", "APT::Sandbox::User=root"]
    _run(["apt-get", "-q", *options, "download", found[1]], log=log, limit_s=1200, folder=work)
    archive = next(work.glob("*.deb"))
    _run(["dpkg-deb", "--extract", str(archive), str(work)], log=log, limit_s=300)
    archive.unlink()
    shutil.rmtree(done, ignore_errors=True)
    work.rename(done)
    if not image.exists():
        raise VmProblem(f"package {found[1]!r} holds no {str(image)!r}")
    return image


def _virtme(cache: Path) -> Path:
    done = cache / _VIRTME.replace("==", "-")
    vng = done / "bin" / "vng"
    if (done / "done").exists():
        return vng
    say(f"{_VIRTME}: installing into {done} ...")
    shutil.rmtree(done, ignore_errors=True)
    log = cache / "virtme-ng.log"
    _run([sys.executable, "-m", "venv", str(done)], log=log, limit_s=300)
    pip = [str(done / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q", "install", _VIRTME]
    _run(pip, log=log, limit_s=600)
    (done / "done").touch()
    return vng


def _install(packages: Sequence[str], cache: Path) -> None:
    told = _output(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", *packages], missing_is_fine=True)
    present = {line[2:].strip() for line in told.splitlines() if line.startswith("ii")}
    missing = [one for one in packages if one not in present]
    if not missing:
        return
    _known_to_apt(missing[0], cache)
    say(f"installing {', '.join(missing)} ...")
    log = cache / "packages.log"
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *missing]
    _run(install, log=log, limit_s=1800, environment={"DEBIAN_FRONTEND": "noninteractive"})


def _known_to_apt(package: str, cache: Path) -> str:
    """Return the version that apt would install, after one update if it knows none."""
    for attempt in (1, 2):
        found = re.search(r"Candidate: (\S+)", _output(["apt-cache", "policy", package]))
        if found is not None and found[1] != "(none)":
            return found[1]
        if attempt == 1:
            say("apt-get update ...")
            _run(["apt-get", "-q", "update"], log=cache / "packages.log", limit_s=600)
    raise VmProblem(f"apt knows no package {package!r}, even after apt-get update; does /etc/apt name a Debian mirror?")


def _output(command: Sequence[str], *, missing_is_fine: bool = False) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    if done.returncode != 0 and not missing_is_fine:
        raise VmProblem(f"{' '.join(command)!r} failed with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _run(
    command: Sequence[str],
    *,
    log: Path,
    limit_s: float,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run one step, its output at the end of the log; raises VmProblem with the last lines."""
    log.parent.mkdir(parents=True, exist_ok=True)
    told = " ".join(command)[:300]
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"$ {told}\n")
        sink.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = f"none within {limit_s:.0f} s"
        finally:
            end_session(process)
    if code != 0:
        last = "".join(f"  {line}\n" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise VmProblem(f"{told!r} failed, exit code {code}; the end of {str(log)!r}:\n{last}")
