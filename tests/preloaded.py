"""Start Python programs without the seconds in which each would load torch.

`python()` is the path of an executable that takes a command line as `sys.executable` does. It runs
the program in a process forked from one that has loaded the libraries our code imports, and none of
our code. Working directory, environment, standard streams, exit status and the signal that ended it
are the program's. SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on; where the executable is killed
the program is; if it was started in a session of its own, so are the program's children. In the
program `sys.executable` is the same executable, so that what it starts starts as fast.

What it is not: the program's process number, an interpreter with flags (all but -c, -m and -u get
the real one), or one that reads variables like OMP_NUM_THREADS and PYTHONHASHSEED anew. Tests of
those, of memory or of what is imported take `sys.executable`, and so does one test of each command.
Modules that the variable ABSENT_MODULES names are as not installed.

This file is also both ends: `preloaded.py serve SOCKET EXECUTABLE` waits for calls, and
`preloaded.py SOCKET PYTHON ARGUMENTS` makes one.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import threading
import types

# Those that our code imports.
LIBRARIES = ("torch", "torch._dynamo", "torchvision", "torch.utils.tensorboard")
LIBRARIES += ("matplotlib.pyplot", "rasterio.features", "concurrent.futures.process")
LIBRARIES += ("multiprocessing.spawn",)  # notes the real sys.executable, to which it passes files
PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@functools.cache
def python() -> str:
    """The executable; the process behind it starts with the first call and ends with this one."""
    import subprocess  # here, as each call would wait for them
    import tempfile

    folder = tempfile.mkdtemp(prefix="preloaded_")  # short: the path of a socket may have 107 bytes
    address, executable = f"{folder}/socket", f"{folder}/python"
    line = shlex.join([sys.executable, "-IS", os.path.abspath(__file__), address, sys.executable])
    with open(executable, "w") as file:
        file.write(f'#!/bin/sh\nexec {line} "$@"\n')
    os.chmod(executable, 0o755)
    # What it imports must not come from where this process was started, see `become`.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", os.path.abspath(__file__), "serve", address, executable]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, start_new_session=True
    )
    assert server.stdout.readline() == b"listening\n"

    def end() -> None:
        server.stdin.close()  # which it sees, also when this process is killed
        server.stdout.close()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return executable


def call(address: str, interpreter: str, arguments: list[str]) -> None:
    """Have the program run, pass on signals, and end as it did. Never returns."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-c", "-m", "-u")):
        os.execv(interpreter, [interpreter, *arguments])
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    socket.send_fds(server, [b"+"], [0, 1, 2])
    request = {"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ)}
    request["leads"] = os.getpgrp() == os.getpid()
    server.sendall(json.dumps(request).encode() + b"\n")
    for number in PASSED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: server.send(b"%d\n" % number))
    status = int(server.makefile().readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status in PASSED else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(address: str, executable: str) -> dict:
    """Fork a process for each call; return, in that process, what is called for."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("listening", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all pages that it looks at
    signal.signal(signal.SIGCHLD, reap)
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            request = keep(caller)
            sys.executable = executable
            return request
        caller.close()


def reap(number: int, frame) -> None:
    """Wait for the keepers that have ended, so that their times are counted as this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def keep(caller: socket.socket) -> dict:
    """Fork the program's process and return there; stay to pass on signals, and its status."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    lines = caller.makefile("rb", buffering=0)
    request = json.loads(lines.readline())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request["leads"]:
            os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, max(*streams, woken, wake, caller.fileno()) + 1)
        caller.detach()
        lines.close()
        return request
    for stream in streams:
        os.close(stream)
    while True:
        ready, _, _ = select.select([caller, woken], [], [])
        if caller in ready:
            line = lines.readline()
            send = os.killpg if request["leads"] else os.kill
            with contextlib.suppress(ProcessLookupError):
                send(child, int(line or signal.SIGKILL))
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            try:
                caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            finally:
                os._exit(0)


def become(request: dict) -> None:
    """Be the program, as if it had just been started. Never returns."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    absent = os.environ.get("ABSENT_MODULES", "").split()
    for name in [name for name in sys.modules if name.partition(".")[0] in absent]:
        del sys.modules[name]
    sys.modules |= dict.fromkeys(absent)  # to import None raises a ModuleNotFoundError
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    first, *rest = request["arguments"]
    if first == "-u":
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)
        first, *rest = rest
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if first == "-c":
        source, *rest = rest
        sys.argv, sys.path[:0] = ["-c", *rest], ["", *paths]
    elif first == "-m":
        module, *rest = rest
        source = f"import runpy; runpy.run_module({module!r}, None, '__main__', True)"
        sys.argv, sys.path[:0] = ["-m", *rest], [os.getcwd(), *paths]
    else:
        sys.argv, sys.path[:0] = [first, *rest], [os.path.dirname(os.path.realpath(first)), *paths]
        main.__file__ = first
        with open(first) as file:
            source = file.read()
    end = 0
    try:
        exec(compile(source, getattr(main, "__file__", "<string>"), "exec"), main.__dict__)
    except SystemExit as exit:
        end = exit.code or 0
        if not isinstance(end, int):
            print(end, file=sys.stderr)
            end = 1
        end &= 0xFF
    except BaseException as error:
        trace = error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        end = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # All that an interpreter does at its end but to take down its modules: half a second for these.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if end < 0:
        signal.signal(-end, signal.SIG_DFL)
        os.kill(os.getpid(), -end)
    os._exit(end)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        become(serve(sys.argv[2], sys.argv[3]))
    call(sys.argv[1], sys.argv[2], sys.argv[3:])
