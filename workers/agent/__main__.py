"""The agent's command line: join, joined, run, stop-all, doctor."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence

from workers.agent import cli, credential, doctor, node_runner, records
from workers.agent.client import CallError, Refused
from workers.agent.credential import CredentialError
from workers.agent.settings import SettingError, Settings, read


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 (failed), 2 (usage), 3 (enrol again), 4 (node removed), 5 (in use), 6
    (doctor finds what forbids joining)."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=os.environ.get("STOA_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per call is noise
    try:
        return _dispatch(options, _settings(options))
    except Refused as error:
        print(f"stoa-agent: {error}", file=sys.stderr)
        return cli.REFUSED
    except records.Locked as error:
        print(f"stoa-agent: {error}", file=sys.stderr)
        return cli.LOCKED
    except (SettingError, ValueError) as error:
        print(f"stoa-agent: {error}", file=sys.stderr)
        return 2
    except (CallError, CredentialError, OSError) as error:
        print(f"stoa-agent: {error}", file=sys.stderr)
        return 1


def _dispatch(options: argparse.Namespace, settings: Settings) -> int:
    if options.command == "joined":
        return cli.joined(settings)
    runner = node_runner.NodeRunner(settings)
    joins = options.command == "join" and not options.anyway
    joins |= options.command == "run" and bool(settings.token) and not _joined(settings)
    if joins and (lacks := doctor.before_joining(settings, runner.survey)):
        print("stoa-agent: this machine must not join as it is:", file=sys.stderr)
        print("\n".join(doctor.line(one) for one in lacks), file=sys.stderr)
        return cli.UNFIT
    if options.command == "join":
        return cli.join(settings)
    if options.command == "run":
        return cli.run(settings, runner=runner, survey=runner.survey)
    if options.command == "stop-all":
        return cli.stop_all(settings, runner=runner)
    return doctor.examine(settings, runner.survey, as_json=options.json)


def _joined(settings: Settings) -> bool:
    return credential.load(settings.directory) is not None


def _settings(options: argparse.Namespace) -> Settings:
    """The environment's settings, with what the command line says instead."""
    said = {name: getattr(options, name, None) for name in ("url", "token", "pin", "name")}
    return dataclasses.replace(read(), **{name: text for name, text in said.items() if text})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stoa-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    join = commands.add_parser("join", help="exchange an enrolment token for a credential")
    join.add_argument("--url", help="the control plane (STOA_CONTROLPLANE_URL)")
    join.add_argument("--token", help="the enrolment token (STOA_AGENT_TOKEN keeps it out of ps)")
    join.add_argument("--pin", help="sha256:… of its authority (STOA_CONTROLPLANE_PIN)")
    join.add_argument("--name", help="the node's name; else the host's")
    join.add_argument("--anyway", action="store_true", help="in spite of what doctor finds")
    commands.add_parser("joined", help="whether this machine holds a certificate that is good")
    run = commands.add_parser("run", help="serve as a node, until SIGTERM")
    run.add_argument("--url", help="the control plane (STOA_CONTROLPLANE_URL)")
    run.add_argument("--join-token", dest="token", help="join first, if need be")
    run.add_argument("--pin", help="sha256:… of its authority (STOA_CONTROLPLANE_PIN)")
    run.add_argument("--name", help="the node's name when it joins; else the host's")
    commands.add_parser("stop-all", help="stop every engine of this agent directory")
    doctor = commands.add_parser("doctor", help="what this node has, and what it lacks")
    doctor.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
