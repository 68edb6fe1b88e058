"""The door of the one command: lists what there is, loads a layer only when one of its commands is called."""

from __future__ import annotations

import difflib
import sys
from importlib.metadata import entry_points, version

#: What each command does, in one line, so that --help loads no layer. Order = order of the listing.
SUMMARIES = {
    "check": "report what this host allows, and what is lost without the rest",
    "host": "draw packages, caches, cores and who sits where",
    "memory": "tell where the memory of processes and the page cache of a file are",
    "calibrate": "measure caches, memory and what sharing costs here, about a minute",
    "profile": "run a command alone and store what it does",
    "profiles": "list, show, compare, export or import stored profiles",
    "catalogue": "list services that can be profiled by name",
    "train": "fit the slowdown model on measured observations",
    "models": "list models; activate one or roll back",
    "serve": "run the daemon",
    "run": "start a command where it and its neighbours suffer least",
    "place": "place running processes",
    "preview": "ask where a workload would go; touch nothing",
    "list": "list placements",
    "explain": "say why a workload was placed where it is",
    "release": "give a workload its earlier state back",
    "rebalance": "move placements whose predicted cost falls enough",
    "events": "list what happened",
    "experiment": "plan, run and analyze the factorial experiment",
    "demo": "show the whole loop on this machine, at most six minutes",
}

_HELP = """\
cotenant decides which workloads share a server, puts them on the right cores, and proves that it worked.

usage: cotenant COMMAND [OPTIONS]        cotenant COMMAND --help explains each

{commands}

A first round, in two terminals:
  cotenant serve --state /tmp/cotenant
  export COTENANT_STATE=/tmp/cotenant
  cotenant profile db -- ./my-database              alone, about a minute
  cotenant run --name db --cpus 2 --slo slowdown=1.3 -- ./my-database
  cotenant list; cotenant explain db

State lives in $COTENANT_STATE or --state, the daemon listens on $COTENANT_SOCKET or STATE/cotenant.sock.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; ends the process with 0, or 1 for an error it names.

    2 means wrong use, 75 that another daemon runs on the state folder, 130 that it was interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in {"-h", "--help", "help"}:
        listing = "\n".join(f"  {name:<10} {summary}" for name, summary in SUMMARIES.items())
        sys.stdout.write(_HELP.format(commands=listing))
        sys.exit(0 if given else 2)
    if given[0] in {"-V", "--version"}:
        sys.stdout.write(f"cotenant {version('cotenant')}\n")
        return
    found = list(entry_points(group="cotenant.commands", name=given[0]))
    if not found:
        near = difflib.get_close_matches(given[0], SUMMARIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"cotenant: {given[0]!r} is no command{hint} (cotenant --help lists them)\n")
        sys.exit(2)
    try:
        found[0].load()(args=given, prog_name="cotenant")
    except KeyboardInterrupt:
        sys.stderr.write("cotenant: interrupted\n")
        sys.exit(130)
    except Exception as error:
        # every error of ours says whether it is `retryable`; anything else is a defect and shows its traceback
        if not hasattr(error, "retryable"):
            raise
        sys.stderr.write(f"cotenant: {error}\n")
        for one in getattr(error, "fields", ()):
            if one.problem not in str(error):
                sys.stderr.write(f"  {one.field}: {one.problem}\n")
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
