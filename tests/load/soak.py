#!/usr/bin/env python3
"""Random load for a long time: all kinds of requests at once, some of them cancelled. Every answer must be the one that
the same request got alone, every stream must end exactly once, memory must stay flat, and nothing may run on at the end.

usage: soak.py [--seconds N] [--threads N]   N (1800); QNEXT names the program
"""
import argparse
import collections
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
from mixed import Client, answers_alone  # noqa: E402
from server import Server  # noqa: E402


def resident_mib(server):
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    with Server("--context", "1K", "--parallel", 4, "--queue", 8, "--prefix-cache", "16M") as server:
        expected = answers_alone(server)
        begin = time.monotonic()
        clients = [Client(server, expected, lambda _: time.monotonic() < begin + args.seconds, seed) for seed in range(args.threads)]
        for client in clients:
            client.start()
        sizes = []
        while any(client.is_alive() for client in clients):
            time.sleep(min(5, args.seconds / 10))
            sizes.append(resident_mib(server))
            if len(sizes) % 12 == 1:
                print(f"{time.monotonic() - begin:6.0f} s: {sum((c.counts for c in clients), collections.Counter())}, "
                      f"{sizes[-1]:.1f} MiB resident", flush=True)
        for client in clients:
            client.join()
            if client.problem:
                raise client.problem
        end = time.monotonic() + 60
        while server.metric("qnext_sequences_running") + server.metric("qnext_sequences_waiting") > 0:
            assert time.monotonic() < end, "a sequence of nobody's still runs"
            time.sleep(0.1)
        code, log = server.stop()
        assert code == 0, log[-3000:]
        assert " status=5" not in log, re.search(".* status=5.*", log)[0]
    counts = sum((client.counts for client in clients), collections.Counter())
    # Warm after a third of the time; what grows after that grows for ever.
    third = sizes[len(sizes) // 3:]
    growth = max(third[-3:]) - max(third[:3])
    print(f"{dict(counts)}; resident {third[0]:.1f} MiB after a third of the time, {third[-1]:.1f} MiB at the end")
    assert growth < max(8, 0.03 * third[0]), f"memory grew by {growth:.1f} MiB"


if __name__ == "__main__":
    main()
