"""The whole deployment of a stage, in the order that its parts need each other: `make deploy STAGE=prod`.

stack -> layer -> outputs -> chalice deploy -> outputs (and again, when the WebSocket's address is new) -> triggers.
Every step may be run again; where nothing differs it changes nothing.
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra import layer, outputs, package, stack, triggers, write
from infra.project import CHALICE, ROOT, OperatorError, client, run, stage_argument
from infra.pythons import WANTED, environment, find_python


def main() -> int:
    """Deploy, telling each step and how long it took."""
    parser = stage_argument(__doc__)
    parser.add_argument("--alarm-email", help="where alarms are mailed to; kept when not given")
    arguments = parser.parse_args()
    stage: str = arguments.stage
    if different := write.different():
        raise OperatorError(f"{', '.join(different)} differ from what infra/functions.py says; run: make functions")
    version, python = find_python(WANTED)
    cloudformation, lambda_ = client("cloudformation"), client("lambda")
    who = client("sts").get_caller_identity()["Account"]
    print(f"deploying {stage} to account {who}, {cloudformation.meta.region_name}, with Python {version}", flush=True)

    given = {"AlarmEmail": arguments.alarm_email} if arguments.alarm_email is not None else {}
    made: dict[str, str] = step("1/6 stacks", lambda: stack.ensure_both(stage, given, cloudformation))
    step("2/6 lake layer", lambda: publish_layer(stage, version, python, lambda_))
    bucket, s3 = made["DataBucket"], client("s3")
    restore_deployed(stage, bucket, s3)
    step("3/6 outputs", lambda: record(stage, cloudformation))
    chalice = environment(version, python, [package.REQUIREMENTS], package.pins("chalice", "boto3")) / "chalice"
    step("4/6 chalice deploy", lambda: chalice_deploy(chalice, stage, bucket, s3))
    changed = step("5/6 outputs", lambda: record(stage, cloudformation))
    if changed:
        step("5/6 chalice deploy, with the WebSocket's address", lambda: chalice_deploy(chalice, stage, bucket, s3))
    step("6/6 triggers", lambda: triggers.apply_all(stage, lambda_))
    print(f"{stage} is deployed. Commit .chalice/config.json.")
    return 0


def step(title: str, work: Callable[[], Any]) -> Any:
    """Run one step between two lines."""
    print(f"\n{title} ...", flush=True)
    started = time.monotonic()
    result = work()
    print(f"{title}: done in {time.monotonic() - started:.0f} s", flush=True)
    return result


def publish_layer(stage: str, version: str, python: Path, lambda_: Any) -> None:
    """Build the layer, publish it where it differs, record its ARN."""
    built = layer.build(version, python)
    print(layer.ensure(stage, built, layer.results_bucket(client("sts"), stage), client("s3"), lambda_))


def record(stage: str, cloudformation: Any) -> list[str]:
    """Record the outputs; returns what changed."""
    changes = outputs.record_all(stage, cloudformation)
    print("\n".join(changes) or "nothing to change")
    return changes


def keep_deployed(stage: str, bucket: str, s3: Any) -> None:
    """Put what Chalice says it made beside the data, so that the next deployment may come from another machine."""
    s3.upload_file(str(CHALICE / "deployed" / f"{stage}.json"), bucket, f"operations/deployed/{stage}.json")


def restore_deployed(stage: str, bucket: str, s3: Any) -> None:
    """Get what the last deployment made, from whichever machine it came; a local copy may be older.

    Without it, Chalice would make second APIs, and stop at triggers that exist.
    """
    target = CHALICE / "deployed" / f"{stage}.json"
    try:
        content: bytes = s3.get_object(Bucket=bucket, Key=f"operations/deployed/{stage}.json")["Body"].read()
    except s3.exceptions.NoSuchKey:
        print(f"no deployment of {stage} is kept in {bucket}")
        return
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)
    print(f"fetched .chalice/deployed/{stage}.json from {bucket}")


def chalice_deploy(chalice: Path, stage: str, bucket: str, s3: Any) -> None:
    """The heart of it, as an operator would type it; raises OperatorError with Chalice's own message above.

    What it made is kept at once, because a later step may fail.
    """
    for cached in (CHALICE / "deployments").glob("*.zip"):
        cached.unlink()  # the cache overlooks renamed files
    command = [str(chalice), "deploy", "--stage", stage]
    if subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode:
        raise OperatorError(
            f"chalice deploy --stage {stage} failed; its message is above. Put it right and run this again"
        )
    keep_deployed(stage, bucket, s3)


if __name__ == "__main__":
    run(main)
