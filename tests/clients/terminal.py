"""Runs `elida top` in a pseudo-terminal and types like a user. Standard library only.

    terminal.py CONTROL_URL BINARY STEPS [NAME=VALUE ...]

STEPS is JSON: ["see", TEXT] waits until TEXT is written after what was seen before, ["press", KEYS],
["signal", NAME], ["size", ROWS, COLUMNS]. Prints one JSON line: exit code, all output, whether the
terminal was raw while it ran, and whether it was put back as it was.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

DEADLINE = time.monotonic() + 25


def resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def main():
    control, binary, steps, *variables = sys.argv[1:]
    master, slave = pty.openpty()
    resize(slave, 24, 160)
    before = termios.tcgetattr(slave)
    environment = dict(os.environ, TERM="xterm-256color", ELIDA_CONTROL=control)
    environment.update(variable.split("=", 1) for variable in variables)
    child = subprocess.Popen(
        [binary, "top"], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    output, seen, was_raw = "", 0, False

    def read(patience):
        nonlocal output
        if not select.select([master], [], [], patience)[0]:
            return False
        output += os.read(master, 65536).decode("utf-8", "replace")
        return True

    for step in json.loads(steps):
        match step:
            case ["see", text]:
                while (at := output.find(text, seen)) < 0:
                    read(0.2)
                    if time.monotonic() > DEADLINE or child.poll() is not None:
                        child.kill()
                        sys.exit(f"waited in vain for {text!r} in {output[seen:]!r}")
                seen = at + len(text)
                was_raw |= not termios.tcgetattr(slave)[3] & termios.ICANON
            case ["press", keys]:
                while read(0):
                    pass
                seen = len(output)
                os.write(master, keys.encode())
            case ["signal", name]:
                child.send_signal(getattr(signal, "SIG" + name))
            case ["size", rows, columns]:
                resize(master, rows, columns)
                child.send_signal(signal.SIGWINCH)
    while child.poll() is None:
        read(0.05)
        if time.monotonic() > DEADLINE:
            child.kill()
            sys.exit(f"it does not end: {output!r}")
    while read(0):
        pass
    restored = termios.tcgetattr(slave) == before
    result = {"code": child.returncode, "output": output, "was_raw": was_raw, "restored": restored}
    print(json.dumps(result), flush=True)


main()
