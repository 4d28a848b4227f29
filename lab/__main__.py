"""The lab's command line: `python -m lab --help`."""

import argparse
import sys

from lab import checks, clean, demo, hosts, services
from lab.engine import LabError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, does in (("up", "start hosts and services"), ("down", "remove hosts and services with their data")):
        some = commands.add_parser(command, help=does)
        some.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(hosts.NAMES)}")
        some.add_argument("--demo", action="store_true", help=f"those of the demo: {', '.join(hosts.DEMO)}")
        some.add_argument("--all", action="store_true", help="all of them")
    commands.add_parser("status", help="show what runs")
    commands.add_parser("push", help="build the application's images and push them to the lab's registry")
    image = commands.add_parser("image", help="make an image")
    image.add_argument("name", choices=demo.IMAGES)
    commands.add_parser("demo", help="from nothing to the application on both environments")
    commands.add_parser("check", help="run lint and unit tests")
    commands.add_parser("test", help="run everything that CI runs")
    commands.add_parser("clean", help="remove everything that this clone made on the engine and in its folder")
    options = parser.parse_args(arguments)
    try:
        if options.command in ("up", "down"):
            chosen = hosts.NAMES if options.all else [*(hosts.DEMO if options.demo else []), *options.names]
            if unknown := set(chosen) - set(hosts.NAMES):
                parser.error(f"no such host: {', '.join(sorted(unknown))}; there are {', '.join(hosts.NAMES)}")
            if not chosen:
                parser.error("say which: names, --demo or --all")
            (hosts.up if options.command == "up" else hosts.down)(chosen)
        if options.command in ("up", "status"):
            print(hosts.status())
        elif options.command == "push":
            services.push()
        elif options.command == "image":
            demo.IMAGES[options.name]()
        elif options.command == "demo":
            demo.run()
        elif options.command == "check":
            checks.run(checks.check_plan())
        elif options.command == "test":
            checks.run(checks.test_plan())
        elif options.command == "clean":
            clean.run()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
