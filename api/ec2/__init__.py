"""The EC2 Query face, driven by botocore's own service model."""

from api.ec2.app import ACTIONS, create_app

__all__ = ["ACTIONS", "create_app"]
