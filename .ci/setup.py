"""Sets up the course environment and runs everything in it: `python .ci/setup.py COMMAND [OPTIONS]`.

The Makefile calls this file; where there is no make (Windows) it is called directly. It needs nothing but a
Python: it finds a suitable one, makes `.venv`, installs the pins of pyproject.toml under the constraints of
environment.yml, and writes their fingerprint into `.venv/equipath.json` last, so that the next run sees and
repairs an interrupted set-up. Every way to fail that we know of ends in one sentence that says what to do.

The top of the file keeps to what Python 3.6 can read: only so can it say that this Python is too old.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
BUILD = os.path.join(ROOT, "build")
STAMP = os.path.join(VENV, "equipath.json")
LOG = os.path.join(BUILD, "setup.log")
PYTHON = (
    os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")
)
SUITABLE = ((3, 11), (3, 12))

COMMANDS = {
    "lab": "set up, build the student notebooks into work/, open JupyterLab on lesson 1",
    "test": "set up, then the whole test run",
    "quick": "the tests that together take under 3 minutes",
    "course": "build every lesson and run it from the first cell to the last, solutions in place",
    "book": "build the book",
    "bench": "measure our layers against their oracles",
    "lint": "ruff and mypy",
    "setup": "make or repair .venv and nothing else",
    "lock": "write environment.yml anew after a pin was changed in pyproject.toml",
    "clean": "delete what was built; work/, .venv and an instructor's build/classroom stay",
    "help": "this list",
}
AGAIN = "Run the same command again: it continues where this one stopped."


class Stop(Exception):
    """Ends the run with one message for the user."""


def say(text):
    print(text, flush=True)


# ---- which Python


def probe(candidate):
    """Returns (major, minor) and the true path of a Python command, or None where it does not run."""
    code = "import sys; print(sys.version_info[0], sys.version_info[1], sys.executable)"
    try:
        done = subprocess.run(
            [candidate, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            universal_newlines=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0:  # a pyenv shim, or Windows' shop window, with no Python behind it
        return None
    major, minor, path = done.stdout.strip().split(" ", 2)
    return (int(major), int(minor)), path


def hand_over():
    """Continues in a Python that suits; returns the present one's version where it does already."""
    wish = os.environ.get("PYTHON")
    own = sys.version_info[:2]
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)  # ours may be about to be replaced
    if own in SUITABLE and not inside and (not wish or os.environ.get("EQUIPATH_HANDED_OVER") == "1"):
        return
    seen = []
    candidates = (
        [wish]
        if wish
        else [
            getattr(sys, "_base_executable", sys.executable),
            "python3.12",
            "python3.11",
            "python3",
            "python",
        ]
    )
    for candidate in candidates:
        found = probe(candidate)
        if found and found[0] in SUITABLE:
            if (
                found[0] == own
                and os.path.realpath(found[1]) == os.path.realpath(sys.executable)
                and not inside
            ):
                return
            environment = dict(os.environ, EQUIPATH_HANDED_OVER="1")
            command = [found[1], os.path.abspath(__file__)] + sys.argv[1:]  # noqa: RUF005 (old Python)
            sys.exit(run_through(command, environment))
        if found:
            seen.append("Python %d.%d (%s)" % (found[0] + (found[1],)))
    if wish:
        what = seen[0] if seen else "nothing that runs"
        raise Stop(
            "PYTHON=%s is %s; the course needs Python 3.11 or 3.12. Give the path of one of these."
            % (wish, what)
        )
    raise Stop(
        "The course needs Python 3.11 or 3.12; found %s. Install one of them (python.org, your system's "
        "packages, conda) and run the same command again; if it is not on the PATH, add "
        "PYTHON=/path/to/python3.12." % (", ".join(dict.fromkeys(seen)) or "none")
    )


def run_through(command, environment=None):
    """Gives the terminal to another program; returns its exit status. Ctrl-C is that program's to handle."""
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        if process.poll() is None:  # we were told to end: no server is left behind
            process.terminate()
            process.wait()


# ---- the state


def project():
    import tomllib  # part of Python from 3.11 on, which hand_over() has seen to

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)


def locked():
    """The pins of environment.yml, one requirement a line: the pip section without the project itself."""
    with open(os.path.join(ROOT, "environment.yml"), encoding="utf-8") as file:
        lines = [line.strip()[2:].strip() for line in file if line.startswith("      - ")]
    return [line for line in lines if not line.startswith("-e")]


def fingerprint():
    """What an up-to-date environment was made from."""
    settings = project()
    pins = {key: settings["project"].get(key) for key in ("dependencies", "optional-dependencies", "scripts")}
    text = json.dumps([pins, settings.get("build-system"), locked()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_stamp():
    try:
        with open(STAMP, encoding="utf-8") as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(**values):
    beside = STAMP + ".new"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, STAMP)


def up_to_date():
    stamp = read_stamp()
    wanted = "%d.%d" % sys.version_info[:2]
    return (
        stamp.get("pins") == fingerprint()
        and stamp.get("root") == ROOT
        and os.path.exists(PYTHON)
        and (stamp.get("python") == wanted or not os.environ.get("PYTHON"))
    )


@contextlib.contextmanager
def alone():
    """Lets one set-up at a time work on this folder. The lock dies with its process."""
    os.makedirs(BUILD, exist_ok=True)
    with open(os.path.join(BUILD, "setup.lock"), "a+") as file:
        told = False
        while not try_lock(file):
            if not told:
                say("Another set-up works in this folder; waiting for it.")
                told = True
            time.sleep(0.3)
        yield


def try_lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


# ---- the set-up


def clean_environment():
    """The user's environment without what leads a Python astray into other installations."""
    drop = (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_REQUIRE_VIRTUALENV",
        "__PYVENV_LAUNCHER__",
        "EQUIPATH_HANDED_OVER",
    )
    return {key: value for key, value in os.environ.items() if key not in drop}


def remove_venv():
    """Puts `.venv` aside in one step, then deletes it: a kill in between leaves no half of it in place."""
    if os.path.islink(VENV) or os.path.isfile(VENV):
        os.unlink(VENV)
    elif os.path.isdir(VENV):
        os.rename(VENV, "%s-old-%d" % (VENV, os.getpid()))
    for name in os.listdir(ROOT):
        if name.startswith(".venv-old-"):
            shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)


def why_rebuild():
    """Says why the present `.venv` cannot be kept, or returns nothing."""
    if not os.path.lexists(VENV):
        return None
    stamp = read_stamp()
    found = probe(PYTHON)
    if not os.path.isdir(VENV) or not found:
        return "its Python is gone or does not run"
    if stamp.get("root", ROOT) != ROOT:
        return "this folder was moved or copied"
    if found[0] not in SUITABLE:
        return "it was made with Python %d.%d" % found[0]
    if os.environ.get("PYTHON") and found[0] != sys.version_info[:2]:
        return "it was made with Python %d.%d and PYTHON asks for another" % found[0]
    run = subprocess.run(
        [PYTHON, "-m", "pip", "--version"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    return "it has no working pip" if run.returncode else None


def set_up():
    """Makes, repairs or updates `.venv`; returns at once where nothing is to be done."""
    if up_to_date():
        return
    with alone():
        if up_to_date():  # the other one did the work
            return
        began = time.time()
        reason = why_rebuild()
        if reason:
            say("Making .venv anew: %s." % reason)
            remove_venv()
        fresh = not os.path.lexists(VENV)
        need = float(project().get("tool", {}).get("equipath", {}).get("disk_gb", 3))
        if not read_stamp().get("pins"):  # a finished environment is only brought up to date: that is small
            free = shutil.disk_usage(ROOT).free / 1e9
            have = 0 if fresh else folder_size(VENV) / 1e9
            if free + have < need:
                raise Stop(
                    "The set-up needs about %.3g GB in %s; %.3g GB are free. Make room and run the same "
                    "command again." % (max(need - have, 0.001), ROOT, free)
                )
        if fresh:
            make_venv()
            write_stamp(root=ROOT, pins=None)
        else:
            say("Continuing with the .venv that is there.")
            forget_half_installed()
        install()
        version = probe(PYTHON)
        if not version:
            raise Stop(
                "The Python in .venv does not run. Delete the folder .venv and run the same command again."
            )
        write_stamp(root=ROOT, pins=fingerprint(), python="%d.%d" % version[0])
        say("The environment is ready (%d s)." % (time.time() - began))


def folder_size(path):
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def make_venv():
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Stop(
                "This Python (%s) comes without the module %s, so it cannot make an environment. On Debian "
                "and Ubuntu: apt install python%d.%d-venv (as root). Then run the same command again."
                % (sys.executable, module, sys.version_info[0], sys.version_info[1])
            )
    say("Making .venv with Python %d.%d.%d (%s)." % ((*sys.version_info[:3], sys.executable)))
    done = subprocess.run(
        [sys.executable, "-m", "venv", VENV],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=clean_environment(),
    )
    if done.returncode:
        text = done.stdout
        if shutil.disk_usage(ROOT).free < 20e6:  # venv does not pass on what stopped the pip in it
            text += "\nNo space left on device"
        log(text, anew=True)
        remove_venv()
        raise Stop(explain(text) or "Python could not make the folder .venv; it said:\n%s" % text.strip())


def forget_half_installed():
    """Drops the records of packages that lack files, so that pip installs them again.

    pip writes a package's files one after the other and its list of them, RECORD, last. A kill or a full
    disk in between leaves a package that pip believes to be there. A missing list or a file of another size
    shows it.
    """
    code = "import sysconfig; print(sysconfig.get_path('purelib'));print(sysconfig.get_path('platlib'))"
    done = subprocess.run(
        [PYTHON, "-c", code], stdout=subprocess.PIPE, universal_newlines=True, env=clean_environment()
    )
    for site in dict.fromkeys(done.stdout.split("\n")[:-1]):
        for name in os.listdir(site) if os.path.isdir(site) else ():
            path = os.path.join(site, name)
            # pip renames what it replaces to a name with a tilde and deletes it at the end
            if name.startswith("~") or (name.endswith(".dist-info") and not complete(path, site)):
                shutil.rmtree(path, ignore_errors=True)


def complete(dist_info, site):
    import csv

    try:
        with open(os.path.join(dist_info, "RECORD"), newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
    except OSError:
        return False
    for name, _, size in rows:
        try:
            true_size = os.stat(os.path.join(site, name)).st_size
        except OSError:
            if name.endswith(".pyc"):  # caches come and go
                continue
            return False
        if size and not name.endswith(".pyc") and int(size) != true_size:
            return False
    return bool(rows)


def install():
    extras = sorted(project()["project"].get("optional-dependencies", {}))
    os.makedirs(BUILD, exist_ok=True)
    constraints = os.path.join(BUILD, "constraints.txt")
    with open(constraints, "w", encoding="utf-8") as file:
        file.write("\n".join(locked()) + "\n")
    scratch = os.path.join(BUILD, "setup-tmp")  # not /tmp: that one may be small, and was not measured above
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    # A path relative to ROOT: no folder name, with blanks or not, has to pass through pip's parser.
    command = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "3",  # also where the user set none: without retries pip does not say that there is no connection
        "--progress-bar",
        "off",
        "-c",
        os.path.join("build", "constraints.txt"),
        "-e",
        ".[%s]" % ",".join(extras),
    ]
    say(
        "Installing %d pinned packages; minutes at the first time. The full record: build/setup.log."
        % len(locked())
    )
    try:
        status, text = watch(command, dict(clean_environment(), TMPDIR=scratch, TEMP=scratch, TMP=scratch))
        if status == 0:
            status, text = watch([PYTHON, "-m", "pip", "check"], clean_environment())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if status:
        errors = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()[-3:]
        raise Stop(
            explain(text) or "pip failed: %s\nThe full record is build/setup.log." % "\n".join(errors[:5])
        )


def watch(command, environment):
    """Runs pip, keeps all it says in the log, and shows on the terminal how far it is."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        encoding="utf-8",
        errors="replace",
    )
    lines, seen, shown, live = [], 0, time.time(), sys.stdout.isatty()
    log("$ %s\n" % " ".join(command), anew="install" in command)
    try:
        for line in process.stdout:
            lines.append(line)
            log(line)
            what = re.match(r"\s*(Collecting|Downloading|Using cached|Building wheel for) (\S+)", line)
            if line.startswith("Installing collected packages"):
                say("%s  %d packages to install" % ("\r\033[K" if live else "", line.count(",") + 1))
            if not what:
                continue
            seen += what.group(1) == "Collecting"
            name = what.group(2).rsplit("/", 1)[-1]
            if live:
                print("\r\033[K  %3d  %s %s" % (seen, what.group(1).lower(), name), end="", flush=True)
            elif time.time() - shown > 15:
                say("  %d packages so far: %s %s" % (seen, what.group(1).lower(), name))
                shown = time.time()
        return process.wait(), "".join(lines)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if live and seen:
            print("\r\033[K", end="", flush=True)


def log(text, anew=False):
    with contextlib.suppress(OSError):  # on a full disk the message matters more than the record
        os.makedirs(BUILD, exist_ok=True)
        with open(LOG, "w" if anew else "a", encoding="utf-8") as file:
            file.write(text)


def explain(text):
    """One sentence for the failures that a user can do something about."""
    if re.search(
        r"No space left on device|Errno 28\D|Disk quota exceeded|not enough space on the disk", text
    ):
        return (
            "The disk was full before the set-up was done. Make room in %s (about 3 GB, with a CUDA build of "
            "torch about 8 GB). %s" % (ROOT, AGAIN)
        )
    if re.search(
        r"NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution|"
        r"getaddrinfo failed|Network is unreachable|Connection refused|ConnectTimeout|ReadTimeout|"
        r"Read timed out|ProxyError|SSLError|Connection reset|Connection broken|RemoteDisconnected",
        text,
    ):
        return (
            "The packages could not be downloaded: no connection to the package index. Look at the "
            "network. %s" % AGAIN
        )
    if re.search(r"Permission denied|Read-only file system|Access is denied", text):
        return (
            "No permission to write in %s or in pip's cache. Give yourself that, or clone elsewhere. %s"
            % (ROOT, AGAIN)
        )
    found = re.search(
        r"(?:No matching distribution found for|requires a different Python|depends on \S+==).*", text
    )
    if found:
        return (
            "A pinned package is not to be had for this computer (%s; pip says: %s). The course runs on "
            "Linux, Windows (64 bit) and Macs with an Apple chip." % (sys.platform, found.group(0))
        )
    return None


# ---- the commands


def command_environment():
    environment = clean_environment()
    environment["VIRTUAL_ENV"] = VENV
    environment["PATH"] = os.path.dirname(PYTHON) + os.pathsep + environment.get("PATH", "")
    return environment


def in_venv(arguments, **extra):
    return run_through([PYTHON, *arguments], dict(command_environment(), **extra))


def coursekit(*arguments):
    return in_venv(["-c", "import sys; from coursekit.cli import main; sys.exit(main())", *arguments])


def pytest(arguments, workers=2):
    # One thread a worker: torch's own threads would fight over the cores that the workers use.
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers else []
    return in_venv(["-m", "pytest", *spread, *arguments], MPLBACKEND="Agg", **threads)


def lab(options):
    status = coursekit("lab-copy")
    if status:
        return status
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in options:
        options = [
            "--allow-root",
            *options,
        ]  # a container's only user; the server listens on this machine alone
    # The settings that the course ships: a student is not asked about Jupyter's news.
    settings = [os.path.join(ROOT, "course", "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
    return in_venv(
        [
            "-m",
            "jupyterlab",
            "--ServerApp.root_dir=work",
            "--LabApp.default_url=/lab/tree/01_symmetry.ipynb",  # also in the address that --no-browser prints
            "--LanguageServerManager.autodetect=False",  # none are installed, and it would name every one
            *options,
        ],
        JUPYTER_CONFIG_PATH=os.pathsep.join(filter(None, settings)),
    )


def lint(options):
    return in_venv(["-m", "ruff", "check", *(options or ["."])]) or in_venv(["-m", "mypy"])


def lock(options):
    """Resolves the pins of pyproject.toml without the old lock and writes the outcome to environment.yml."""
    path = os.path.join(ROOT, "environment.yml")
    extras = ",".join(sorted(project()["project"]["optional-dependencies"]))
    with alone():
        status, text = watch(
            [
                PYTHON,
                "-m",
                "pip",
                "install",
                "--no-input",
                "--progress-bar",
                "off",
                "-e",
                ".[%s]" % extras,
                *options,
            ],
            clean_environment(),
        )
        if status:
            raise Stop(
                explain(text) or "pip found no set of packages that fits the pins; see build/setup.log."
            )
        done = subprocess.run(
            [PYTHON, "-m", "pip", "list", "--format", "json", "--exclude", "equipath", "--exclude", "pip"],
            stdout=subprocess.PIPE,
            env=clean_environment(),
            check=True,
        )
        pins = {}
        for item in json.loads(done.stdout.decode("utf-8")):
            name = re.sub(r"[-_.]+", "-", item["name"]).lower()
            if not re.match(r"(nvidia|cuda)-|triton$", name):  # what torch's CUDA build pins by itself
                pins[name] = "%s==%s" % (name, item["version"].split("+")[0])
        # Lines with a marker are for other systems and Pythons: nothing here can resolve them anew.
        others = [line for line in locked() if ";" in line]
        for line in others:
            pins.pop(line.split("==")[0], None)
        with open(path, encoding="utf-8") as file:
            head = file.read().split("      - -e .\n")[0]
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                head + "".join("      - %s\n" % line for line in ["-e .", *sorted([*pins.values(), *others])])
            )
    say(
        "environment.yml is written. Lines with a condition were kept: check by hand %s."
        % ", ".join(line.split(" ")[0] for line in others)
    )
    return 0


def clean():
    for name in ("instructor", "student", "solution", "source", "book", "cache"):
        shutil.rmtree(os.path.join(BUILD, name), ignore_errors=True)
    for name in (
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        os.path.join("book", "_build"),
    ):
        shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)
    return 0


def help_text():
    lines = ["make COMMAND, or where there is no make: python .ci/setup.py COMMAND", ""]
    lines += ["  %-8s %s" % (name, text) for name, text in COMMANDS.items()]
    lines += [
        "",
        'Options pass through: make lab OPTS="--no-browser --port 8899", make test OPTS="-k groups".',
        "Another Python: make lab PYTHON=/path/to/python3.12.",
    ]
    return "\n".join(lines)


def main(arguments):
    command, options = (arguments[0] if arguments else "help"), arguments[1:]
    if command in ("help", "-h", "--help"):
        say(help_text())
        return 0
    if command not in COMMANDS:
        raise Stop("There is no command %s; `make help` lists the commands." % command)
    if command == "clean":
        return clean()
    hand_over()
    set_up()
    if command == "lab":
        return lab(options)
    if command == "test":
        return pytest(options)
    if command == "quick":
        return pytest(["-m", "not slow and not browser", *options])
    if command == "course":
        return coursekit("run", *options)
    if command == "book":
        return coursekit("book", *options)
    if command == "bench":
        return in_venv(["-m", "tests.benchmarks", *options])
    if command == "lint":
        return lint(options)
    if command == "lock":
        return lock(options)
    return 0


def end(*_):
    """Ends on SIGTERM as on an error, so that what was started is ended too."""
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        print("\n%s" % stop, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted. " + AGAIN, file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print("\n%s" % (explain(str(error)) or error), file=sys.stderr)
        sys.exit(1)
