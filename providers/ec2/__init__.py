"""EC2 and everything that speaks its Query API: zones times instance types as elastic hosts."""

from providers.ec2.provider import Ec2Provider

__all__ = ["Ec2Provider"]
