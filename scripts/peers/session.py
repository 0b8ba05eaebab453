"""The driver's end of a runner: starts it, asks it, and turns every way to die into one reason."""

import json
import os
import queue
import signal
import subprocess
import threading
import time


class Lost(Exception):
    """This row's process is gone; what it said before still counts."""


class Session:
    def __init__(self, command, log):
        """Starts `command`; its stderr goes to the file `log`."""
        self.log = log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # so that a kill reaches what it started, too
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def tell(self, **command):
        try:
            print(json.dumps(command), file=self.process.stdin, flush=True)
        except OSError:
            pass  # it is gone: the next `hear` says why

    def hear(self, timeout, doing):
        """The next event. Raises Lost if none comes within `timeout` seconds, or none can."""
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise Lost(f"no answer for {timeout:g} s while {doing}") from None
        if line is None:
            raise Lost(f"{self._cause_of_death()} while {doing} (see {self.log})")
        event = json.loads(line)
        if event["event"] == "error":
            self.close()
            raise Lost(event["reason"])
        return event

    def _cause_of_death(self):
        code = self.process.wait()
        if code >= 0:
            return f"it ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", out of memory most likely," if name == "SIGKILL" else "")

    def close(self):
        """Ends the process, by force if it does not go within two seconds of being told that no more is asked."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def selftest():
    import sys
    import tempfile

    def session(script):
        return Session([sys.executable, "-c", script], log)

    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        echo = session(
            "import json, sys\n"
            "for line in sys.stdin: print(json.dumps({'event': 'heard', 'it': json.loads(line)}), flush=True)"
        )
        echo.tell(do="x")
        assert echo.hear(30, "testing") == {"event": "heard", "it": {"do": "x"}}, "echo"
        echo.close()
        assert echo.process.returncode == 0, "an orderly end"

        for script, reason in (
            ("raise SystemExit(3)", "it ended with exit code 3 while testing"),
            ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, out of memory most likely, while testing"),
            ("import os; os.abort()", "killed by SIGABRT while testing"),
            ('print(\'{"event": "error", "reason": "so"}\', flush=True)', "so"),
        ):
            try:
                session(script).hear(30, "testing")
                raise AssertionError(f"{script}: it did not get lost")
            except Lost as lost:
                assert str(lost).startswith(reason), f"{script}: {lost}"

        started = time.monotonic()
        hung = session("import time; time.sleep(60)")
        try:
            hung.hear(0.1, "testing")
            raise AssertionError("a hang was not seen")
        except Lost as lost:
            assert str(lost) == "no answer for 0.1 s while testing", lost
        assert hung.process.returncode == -signal.SIGKILL and time.monotonic() - started < 30, "a hang is ended"
