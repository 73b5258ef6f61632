"""Production deployed from beginning to end, twice, on moto: run by test_deploy.py in a copy of the project.

The package is a stand-in, for `make package` builds and checks the real one. Prints what then exists, as JSON.
"""

import io
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import boto3
from chalice.cli import cli
from chalice.deploy.packager import LambdaDeploymentPackager
from moto import mock_aws

from infra import layer, outputs, stack, triggers
from infra.deploy import keep_deployed, restore_deployed
from infra.project import CHALICE, read_config, write_config


def teach_moto() -> None:
    """Four things that API Gateway and S3 take from Chalice, and moto does not."""
    validator = ModuleType("openapi_spec_validator")  # moto's API Gateway cannot be loaded without it
    exceptions = ModuleType("openapi_spec_validator.validation.exceptions")
    vars(validator)["validate"] = None
    vars(exceptions)["OpenAPIValidationError"] = ValueError
    sys.modules |= {"openapi_spec_validator": validator, "openapi_spec_validator.validation.exceptions": exceptions}
    import moto.apigateway.models
    import moto.apigatewayv2.urls
    import moto.s3.responses

    backend = moto.apigateway.models.APIGatewayBackend
    put, import_, notification = (
        backend.put_rest_api,
        backend.import_rest_api,
        moto.s3.responses.S3Response._notification_config_from_body,
    )

    def put_rest_api(self: Any, function_id: str, api_doc: Any, fail_on_warnings: bool, mode: str = "merge") -> Any:
        return put(self, function_id, as_openapi(api_doc), fail_on_warnings and False, mode)

    def import_rest_api(self: Any, api_doc: Any, fail_on_warnings: bool) -> Any:
        return import_(self, as_openapi(api_doc), fail_on_warnings and False)

    def in_small_letters(self: Any) -> Any:
        for name in ("Prefix", "Suffix"):
            self.body = self.body.replace(f"<Name>{name}<".encode(), f"<Name>{name.lower()}<".encode())
        return notification(self)

    patch.object(backend, "put_rest_api", put_rest_api).start()
    patch.object(backend, "import_rest_api", import_rest_api).start()
    patch.object(moto.s3.responses.S3Response, "_notification_config_from_body", in_small_letters).start()
    made: tuple[int, dict[str, str], str] = (201, {}, json.dumps({"deploymentId": "made"}))
    moto.apigatewayv2.urls.url_paths["{0}/v2/apis/(?P<api_id>[^/]+)/deployments$"] = lambda *_: made


def as_openapi(document: dict[str, Any]) -> dict[str, Any]:
    """Swagger 2.0 without a description, whose mock integrations have neither address nor method."""
    document.pop("swagger", None)
    document["info"].setdefault("description", "")
    for path in document["paths"].values():
        for method in path.values():
            integration = method.get("x-amazon-apigateway-integration", {})
            integration.setdefault("uri", "none")
            integration.setdefault("httpMethod", "POST")
    return document


def a_package(_: object, project_dir: str, python_version: str, *__: object) -> str:
    """In place of the real zip."""
    target = Path(project_dir) / ".chalice" / "deployments" / f"{python_version}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(a_zip())
    return str(target)


def a_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.py", "")
    return content.getvalue()


def chalice_deploy(bucket: str, s3: Any) -> None:
    cli(["deploy", "--stage", "prod"], obj={}, standalone_mode=False)
    keep_deployed("prod", bucket, s3)


def deploy() -> list[str]:
    """The steps of infra/deploy.py; returns what the second recording changed."""
    cloudformation, lambda_, s3 = boto3.client("cloudformation"), boto3.client("lambda"), boto3.client("s3")
    made = stack.ensure_both("prod", {}, cloudformation, sleep=lambda _: None)
    zip_file = CHALICE / "layer.zip"
    zip_file.write_bytes(a_zip())
    bucket = layer.results_bucket(boto3.client("sts"), "prod")
    layer.ensure("prod", layer.Layer("3.12", zip_file, CHALICE), bucket, s3, lambda_)
    restore_deployed("prod", made["DataBucket"], s3)
    outputs.record_all("prod", cloudformation)
    without_bus()
    chalice_deploy(made["DataBucket"], s3)
    lines = outputs.record_all("prod", cloudformation)
    without_bus()
    changes = [line.partition(" = ")[0] for line in lines if not line.startswith("EVENT_BUS")]
    if changes:
        chalice_deploy(made["DataBucket"], s3)
    triggers.apply_all("prod", lambda_)
    return changes


def without_bus() -> None:
    """Moto gives an object's address in place of the bus's name."""
    config = read_config()
    config["stages"]["prod"]["environment_variables"]["EVENT_BUS"] = "tidemark-prod"
    write_config(config)


def inventory() -> dict[str, Any]:
    """What the account has."""
    lambda_, iam, s3 = boto3.client("lambda"), boto3.client("iam"), boto3.client("s3")
    settings = read_config()["stages"]["prod"]["environment_variables"]
    roles = {}
    for role in iam.list_roles()["Roles"]:
        name = role["RoleName"]
        if "WorkflowRole" in name:  # the stack's own; all others are the functions', made by Chalice
            continue
        roles[name] = iam.get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"]
    events = boto3.client("events")
    rules = events.list_rules()["Rules"]
    return {
        "rules": [r | {"Targets": events.list_targets_by_rule(Rule=r["Name"])["Targets"]} for r in rules],
        "functions": {f["FunctionName"]: f for f in lambda_.list_functions()["Functions"]},
        "mappings": {
            m["FunctionArn"].rpartition(":")[2]: m for m in lambda_.list_event_source_mappings()["EventSourceMappings"]
        },
        "mapping_count": len(lambda_.list_event_source_mappings()["EventSourceMappings"]),
        "notifications": s3.get_bucket_notification_configuration(Bucket=settings["DATA_BUCKET"]).get(
            "LambdaFunctionConfigurations"
        ),
        "bus_failures": lambda_.get_function_event_invoke_config(FunctionName="tidemark-prod-take_bus_event"),
        "roles": roles,
        "rest_apis": [api["id"] for api in boto3.client("apigateway").get_rest_apis()["items"]],
        "socket_apis": [api["ApiId"] for api in boto3.client("apigatewayv2").get_apis()["Items"]],
        "settings": settings,
    }


def main() -> None:
    teach_moto()
    patch.object(LambdaDeploymentPackager, "create_deployment_package", a_package).start()
    with mock_aws():
        first_changes = deploy()
        first = inventory()
        # As on the machine of an operator whose last deployment made nothing that there is now.
        (CHALICE / "deployed" / "prod.json").write_text('{"resources": [], "schema_version": "2.0", "backend": "api"}')
        second_changes = deploy()
        found = {"first": first, "second": inventory(), "changes": [first_changes, second_changes]}
    Path(sys.argv[1]).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
