"""Runs the program: keyword arguments become flags, its errors become exceptions."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Iterable, List, TextIO, Tuple

BUNDLE = Path(__file__).parent / "bundle"  # of a wheel: bin/, lib/, share/

KINDS = {
    1: "internal", 2: "usage", 3: "data", 4: "weights", 5: "diverged", 6: "memory",
    7: "collective", 8: "check", 9: "network", 75: "preempted",
}


class EngineError(RuntimeError):
    """The program ended with an error.

    exit_code: its exit code, listed in engine/error.h; 128 + N where signal N ended it.
    kind: the code in a word, such as "usage", "data", "memory"; 75 is "preempted": the run was
        stopped, and has saved a checkpoint that `train(resume=…)` goes on from.
    message: what it said, without its name in front.
    output: what it had written to standard output until then.
    """

    def __init__(self, exit_code: int, message: str, output: str = ""):
        super().__init__(f"{message} (exit code {exit_code})")
        self.exit_code = exit_code
        self.kind = KINDS.get(exit_code, "signal" if exit_code > 128 else "unknown")
        self.message = message
        self.output = output

    def __reduce__(self) -> Tuple[Any, ...]:
        return EngineError, (self.exit_code, self.message, self.output)


def program() -> Path:
    """The program that is run: $ENGINE_PROGRAM, else the one of this package."""
    chosen = os.environ.get("ENGINE_PROGRAM")
    path = Path(chosen) if chosen else BUNDLE / "bin" / "engine"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such program; "
                                "$ENGINE_PROGRAM names one where the package holds none")
    return path


def value_text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, Iterable):
        return ",".join(value_text(element) for element in value)
    return str(value)


def flags_of(**flags: Any) -> List[str]:
    """batch_size=64 → "--batch-size=64", b=64 → "-b=64"; `_` behind a name is for words that Python
    keeps to itself."""
    words = []
    for name, value in flags.items():
        if value is None:
            continue
        name = name.rstrip("_").replace("_", "-")
        words.append(f"{'-' if len(name) == 1 else '--'}{name}={value_text(value)}")
    return words


def message_of(lines: List[str], verb: str) -> str:
    """The error among the last lines of standard error: from "engine VERB: …" to the end."""
    for i in range(len(lines) - 1, -1, -1):
        for name in (f"engine {verb}: ", "engine: "):
            if lines[i].startswith(name):
                return "\n".join([lines[i][len(name):], *lines[i + 1:]]).strip()
    return "\n".join(lines[-5:]).strip() or "it said nothing"


def follow(stream: Any, take: Callable[[str], None]) -> threading.Thread:
    """Hands over a stream line by line, until its end. Names may be any bytes."""
    def lines() -> None:
        for line in stream:
            take(line.decode("utf-8", errors="surrogateescape"))
    thread = threading.Thread(target=lines, daemon=True)
    thread.start()
    return thread


def tell(line: str, stream: TextIO) -> None:
    """Writes a line; a stream that is closed, or lacks the characters, harms no run."""
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, errors="replace").decode(encoding))
        stream.flush()
    except (AttributeError, OSError, ValueError):
        pass


def run(verb: str, arguments: Iterable[Any] = (), _input: bytes = b"",
        **flags: Any) -> Tuple[str, str]:
    """Runs a verb to its end and returns what it wrote: standard output, and standard error, which
    is passed on to sys.stderr meanwhile. `_input` is its standard input.

    An interrupt (Ctrl-C, or the stop button of a notebook) asks the program to stop, which saves a
    training; a second one ends it at once. KeyboardInterrupt is raised when it has ended.
    """
    words = [*verb.split(), *flags_of(**flags)]
    positional = [value_text(argument) for argument in arguments]
    if positional:
        words += ["--", *positional]
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("CLICOLOR_FORCE", None)
    # In a session of its own, the keyboard's interrupt comes to it once: from here.
    with tempfile.TemporaryFile() as given:
        given.write(_input)
        given.seek(0)
        process = subprocess.Popen(
            [str(program()), *words], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, start_new_session=True)
    output: List[str] = []
    said: List[str] = []

    def hear(line: str) -> None:
        said.append(line.rstrip("\n"))
        tell(line, sys.stderr)

    threads = [follow(process.stdout, output.append), follow(process.stderr, hear)]
    interrupted = False
    while True:
        try:
            process.wait()
            for thread in threads:
                thread.join()
            break
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)
    process.stdout.close()
    process.stderr.close()
    code = process.returncode
    if code < 0:
        error = EngineError(128 - code, f"ended by {signal.Signals(-code).name}", "".join(output))
    else:
        error = EngineError(code, message_of(said, verb), "".join(output))
    if interrupted:
        raise KeyboardInterrupt from (error if code else None)
    if code:
        raise error
    return "".join(output), "\n".join(said)


def call(verb: str, *arguments: Any, **flags: Any) -> str:
    """Runs a verb, such as "summary" or "weights list", and returns its standard output."""
    return run(verb, arguments, **flags)[0]
