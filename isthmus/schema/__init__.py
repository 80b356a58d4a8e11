"""The models of the native API, defined once: the server answers with them, the SDK reads them."""

from isthmus.schema.access import Can, Grant, Permission
from isthmus.schema.accesskey import AccessKey, AccessKeyCreate, AccessKeyCreated
from isthmus.schema.error import Error, ErrorDetail
from isthmus.schema.event import Event
from isthmus.schema.expression import Expression, ExpressionCheck, HostWorth
from isthmus.schema.flavor import Flavor, FlavorCreate
from isthmus.schema.gateway import (
    AgentRegister,
    AgentStatus,
    Enrol,
    Enrolled,
    Gateway,
    GatewayCreate,
    GatewayCreated,
    PeerStatus,
)
from isthmus.schema.host import Host, HostUpdate
from isthmus.schema.image import Image, ImageCreate, ImageUpdate, Realisation
from isthmus.schema.keypair import KeyPair, KeyPairCreate
from isthmus.schema.label import LabelSet, LabelUpdate
from isthmus.schema.migration import MigrationCreate, MigrationPlan, Move, Stuck
from isthmus.schema.network import Network, NetworkCreate, Subnet, SubnetCreate
from isthmus.schema.operation import Operation, OperationState
from isthmus.schema.page import Page
from isthmus.schema.peer import Peer
from isthmus.schema.policy import (
    Clause,
    Policy,
    PolicyCheck,
    PolicyText,
    Problem,
    Rehearsal,
    RehearsalStep,
)
from isthmus.schema.project import Project, ProjectCreate
from isthmus.schema.reservation import Reservation, ReservationCreate, ReservationState
from isthmus.schema.site import Site, SiteCreate
from isthmus.schema.size import Quota, QuotaSet, QuotaUsed
from isthmus.schema.status import Status
from isthmus.schema.token import Role, Token, TokenCreate, TokenCreated
from isthmus.schema.usage import Usage
from isthmus.schema.vm import (
    NIC,
    VM,
    AffinityRule,
    Console,
    DryRun,
    NearestMiss,
    Placement,
    SiteWhy,
    Term,
    VMCreate,
    VMMigrate,
    VMOperation,
    VMState,
    VMStop,
    VMUpdate,
    Why,
)

__all__ = [
    "NIC",
    "VM",
    "AccessKey",
    "AccessKeyCreate",
    "AccessKeyCreated",
    "AffinityRule",
    "AgentRegister",
    "AgentStatus",
    "Can",
    "Clause",
    "Console",
    "DryRun",
    "Enrol",
    "Enrolled",
    "Error",
    "ErrorDetail",
    "Event",
    "Expression",
    "ExpressionCheck",
    "Flavor",
    "FlavorCreate",
    "Gateway",
    "GatewayCreate",
    "GatewayCreated",
    "Grant",
    "Host",
    "HostUpdate",
    "HostWorth",
    "Image",
    "ImageCreate",
    "ImageUpdate",
    "KeyPair",
    "KeyPairCreate",
    "LabelSet",
    "LabelUpdate",
    "MigrationCreate",
    "MigrationPlan",
    "Move",
    "NearestMiss",
    "Network",
    "NetworkCreate",
    "Operation",
    "OperationState",
    "Page",
    "Peer",
    "PeerStatus",
    "Permission",
    "Placement",
    "Policy",
    "PolicyCheck",
    "PolicyText",
    "Problem",
    "Project",
    "ProjectCreate",
    "Quota",
    "QuotaSet",
    "QuotaUsed",
    "Realisation",
    "Rehearsal",
    "RehearsalStep",
    "Reservation",
    "ReservationCreate",
    "ReservationState",
    "Role",
    "Site",
    "SiteCreate",
    "SiteWhy",
    "Status",
    "Stuck",
    "Subnet",
    "SubnetCreate",
    "Term",
    "Token",
    "TokenCreate",
    "TokenCreated",
    "Usage",
    "VMCreate",
    "VMMigrate",
    "VMOperation",
    "VMState",
    "VMStop",
    "VMUpdate",
    "Why",
]
