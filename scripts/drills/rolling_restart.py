"""Restarts two services behind nginx one after the other under load, and checks that no answer is lost or wrong.

    python -m scripts.drills.rolling_restart [--requests 10000] [--clients 32]

nginx (on the PATH, or in /usr/sbin) runs on loopback with the configuration of docs/howto/serve.md, without TLS and
rate limit. Each request is sent once, and must be answered with 200 and `Predictor`'s result. Exit code 1 if one is
not; 0, with the reason, if there is no nginx.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from pathlib import Path

from scripts.drills.load import Answered, Load, percentiles
from scripts.drills.served import ROOT, Served, free_port, make_tasks

MAIN = """
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{documented}
}}
"""
LEFT_OUT = ("ssl_certificate", "limit_req")


def documented(port: int, upstream: tuple[int, int]) -> str:
    """The configuration in docs/howto/serve.md with these ports."""
    text = (ROOT / "docs" / "howto" / "serve.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```nginx\n(.*?)```", text, re.S)
    lines = [line for line in found.splitlines() if not line.strip().startswith(LEFT_OUT)]
    config = "\n".join(lines)
    for before, after in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream[0]}"),
        ("127.0.0.1:8001", f"127.0.0.1:{upstream[1]}"),
    ):
        if before not in config:
            raise RuntimeError(f"docs/howto/serve.md: the nginx configuration lacks {before!r}")
        config = config.replace(before, after)
    return config


class Nginx:
    def __init__(self, program: str, folder: Path, port: int, upstream: tuple[int, int]) -> None:
        config = folder / "nginx.conf"
        config.write_text(MAIN.format(folder=folder, documented=documented(port, upstream)))
        self._process = subprocess.Popen([program, "-p", str(folder), "-c", str(config)])

    def __enter__(self) -> "Nginx":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def restarted_under_load(folder: Path, program: str, requests: int, clients: int) -> tuple[list[Answered], list[str]]:
    """All answers, and what was done when."""
    asked = make_tasks(folder)
    ports, front = [free_port(), free_port()], free_port()
    services = [Served(folder, port, "timeout_seconds=60") for port in ports]
    done: list[str] = []
    try:
        with Nginx(program, folder, front, (ports[0], ports[1])):
            time.sleep(1)
            load = Load(front, asked, clients, requests)
            thread = threading.Thread(target=load.run)
            thread.start()
            for number, part in enumerate((0.1, 0.4)):
                while len(load.answers) < part * requests and thread.is_alive():
                    time.sleep(0.05)
                at = len(load.answers)
                code = services[number].end()
                down = len(load.answers)
                services[number] = Served(folder, ports[number], "timeout_seconds=60")
                done.append(
                    f"service {number + 1} got SIGTERM after {at:,} answers, ended with code {code} at {down:,}, and"
                    f" served again at {len(load.answers):,}"
                )
            thread.join()
    finally:
        for service in services:
            service.kill()
    return load.answers, done


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        print("Skipped: there is no nginx on the PATH (Debian: apt-get install nginx-light).")
        return 0
    with tempfile.TemporaryDirectory() as name:
        answers, done = restarted_under_load(Path(name), program, options.requests, options.clients)
    print(*done, sep="\n")
    statuses = Counter(answer.status for answer in answers)
    lost = len(answers) - statuses[200]
    wrong = sum(answer.status == 200 and not answer.right for answer in answers)
    seconds = max(answer.began + answer.seconds for answer in answers) - min(answer.began for answer in answers)
    times = " ".join(f"{1000 * value:,.0f}" for value in percentiles(answers))
    print(f"{len(answers):,} requests of {options.clients} clients, {len(answers) / seconds:.0f} a second")
    print(f"milliseconds, median, 95 %, 99 %, longest: {times}")
    print(f"lost {lost}, wrong {wrong} (statuses: {dict(statuses)})")
    return int(bool(lost or wrong) or len(done) != 2)


if __name__ == "__main__":
    sys.exit(main())
