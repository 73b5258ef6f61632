"""What a container of a function keeps: settings, clients, stores and stages, made from the environment once."""

import os
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from chalicelib.events.contracts import Contracts
from chalicelib.lake_stages import LakeStages
from chalicelib.settings import ROOT, Settings
from chalicelib.stages import Stages
from chalicelib.stores import Stores

# The SDK's own retries are bounded so that a handler fails within its time-out and the trigger takes over.
CLIENT_CONFIG = Config(
    connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3}, max_pool_connections=32
)
CONFIGS = {
    # DynamoDB checks what it is sent itself; in the SDK that would be two fifths of the work of a large write.
    "dynamodb": CLIENT_CONFIG.merge(Config(parameter_validation=False)),
    # Links that every region and bucket takes; the SDK's default signs them as S3 once did.
    "s3": CLIENT_CONFIG.merge(Config(signature_version="s3v4")),
    # A push that hangs is given up soon: the connection's client comes back for a snapshot.
    "apigatewaymanagementapi": CLIENT_CONFIG.merge(
        Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
    ),
}


@cache
def settings() -> Settings:
    return Settings.from_environment(os.environ)


@cache
def client(service: str, endpoint_url: str | None = None) -> Any:
    """Return a boto3 client; threads may share it."""
    return boto3.client(service, endpoint_url=endpoint_url, config=CONFIGS.get(service, CLIENT_CONFIG))


@cache
def contracts() -> Contracts:
    return Contracts.load(ROOT / "schemas")


@cache
def stores() -> Stores:
    return Stores(settings(), client)


@cache
def stages() -> Stages:
    return Stages(stores(), contracts)


@cache
def lake_stages() -> LakeStages:
    return LakeStages(stores(), contracts, lambda key: stages().collector.reinject(key))
