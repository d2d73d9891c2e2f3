"""`make demo` and `make serve`: one model all the way, on real processes."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from programs import DemoError
from report import table
from story import Story


def main() -> int:
    """Play the story; with --serve, leave the fleet up until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave the fleet up for a person")
    parser.add_argument("--port", type=int, default=8080, help="of the console, with --serve")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    folder = Path(tempfile.mkdtemp(prefix="edgec-demo-"))
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    story = Story(folder, say, arguments.port if arguments.serve else None)
    try:
        if arguments.serve:
            serve(story)
        else:
            story.run()
            print("\n" + table(story.facts, time.monotonic() - started))
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        print(f"Logs: {keep_logs(folder)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    finally:
        story.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def serve(story: Story) -> None:
    """Bring the fleet to 1.1.0 under load, say where the console is, and wait."""
    story.set_up()
    story.ship_a_better_release()
    story.refuse_a_bad_release(abort=False)  # the page shows it paused, for a person to decide
    login = story.fleet.login
    print(f"\nConsole: {story.fleet.url}   name: {login['name']}   password: {login['password']}")
    agents = ", ".join(f"{d.name} http://127.0.0.1:{d.port}" for d in story.fleet.devices)
    print(f"Inference (Open Inference Protocol v2): {agents}")
    print("Steady load is on. Ctrl-C stops everything.", flush=True)
    signal.pause()


def keep_logs(folder: Path) -> Path:
    """Copy the logs out of the folder that is about to go; return where they are."""
    kept = Path(tempfile.mkdtemp(prefix="edgec-demo-logs-"))
    for log in folder.rglob("*.log"):
        shutil.copy(log, kept / log.name)
    return kept


if __name__ == "__main__":
    sys.exit(main())
