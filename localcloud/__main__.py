"""The local cloud's command line: `python -m localcloud <command>`."""

import argparse
import os
import shutil
import sys

from localcloud.places import LocalCloudError, Places, Running

COMMANDS = {
    "run": "start the cloud, the functions and REST, and stay until Ctrl-C (--no-rest: without REST)",
    "status": "tell whether a cloud runs here, and where",
    "forget": "remove the saved state: every table, queue and object",
    "credentials": "print credentials for the SDK, which .chalice/aws-local names; starts a cloud if there is none",
    "cloud": "a part that run starts: the AWS services, triggers and the WebSocket gateway",
    "functions": "a part that run starts: the app's functions",
    "rest": "a part that run starts: the app's REST API",
}


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m localcloud",
        description="Tidemark's local cloud. PORT, WS_PORT and CLOUD_PORT choose the ports, TIDEMARK_STATE the folder.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in COMMANDS.items()}
    parsers["run"].add_argument("--no-rest", action="store_true", help="leave out the REST API")
    parsers["run"].add_argument("--leased", action="store_true", help="end when the leases' processes are gone")
    options = parser.parse_args()
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return run(options)
    except LocalCloudError as error:
        print(f"localcloud: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Each command's code is imported when it is used: `credentials` has to be quick."""
    places = Places.from_environment(os.environ)
    match options.command:
        case "run":
            from localcloud.supervisor import supervise

            return supervise(places, rest=not options.no_rest, leased=options.leased)
        case "cloud":
            from localcloud.cloud import serve_cloud

            return serve_cloud(places)
        case "functions":
            from localcloud.functions import serve_functions

            return serve_functions()
        case "rest":
            from localcloud.rest import serve_rest

            return serve_rest()
        case "credentials":
            from localcloud.credentials import print_credentials

            return print_credentials(places)
        case "status":
            return status(places)
        case _:
            return forget(places)


def status(places: Places) -> int:
    """Exit code 0 when a cloud is ready, 3 when none runs."""
    running = Running.read(places)
    print(f"state folder: {places.root}")
    if running is None:
        print("no local cloud runs on it; start one with: make run")
        return 3
    ports = running.ports
    print(f"{running.state}, process {running.pid}{', started for chalice local' if running.leased else ''}")
    print(f"cloud {ports.cloud_url}, WebSocket ws://127.0.0.1:{ports.websocket}", end="")
    print(f", REST http://127.0.0.1:{ports.rest}" if "rest" in running.children else "")
    for name, pid in running.children.items():
        print(f"  {name}: process {pid}")
    return 0 if running.state == "ready" else 3


def forget(places: Places) -> int:
    """Remove what the local cloud wrote, and the folder if nothing else is in it."""
    if not places.owned():
        print(f"nothing to forget in {places.root}")
        return 0
    if places.lock("cloud") is None:
        running = Running.read(places)
        raise LocalCloudError(
            f"a local cloud runs on {places.root}{f' (process {running.pid})' if running else ''}; stop it first"
        )
    for path in places.owned():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(places.root.iterdir()):
        places.root.rmdir()
    print(f"removed the state in {places.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
