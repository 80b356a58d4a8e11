"""The store: rows by noun, and the transactions over them. No other room sees SQL."""

from broker.store.base import Row
from broker.store.columns import Columns, listed, paired
from broker.store.database import BESIDE, Store, StoreError
from broker.store.image import FlavorRow, ImageRow, KeyPairRow, RealisationRow, image_name
from broker.store.label import LABELS, Labelled, LabelRow
from broker.store.network import GatewayRow, NetworkRow, PeerRow, SubnetRow
from broker.store.nic import AddressRow, NICRow
from broker.store.operation import BurstRow, DutyRow, EventRow, MetaRow, OperationRow, PolicyRow
from broker.store.project import AccessKeyRow, ProjectRow, TokenRow
from broker.store.request import RequestRow
from broker.store.reservation import ReservationRow
from broker.store.site import SITE_SETTINGS, HostRow, SiteRow
from broker.store.usage import UsageMonthRow, UsageRow
from broker.store.vm import VMRow

__all__ = [
    "BESIDE",
    "LABELS",
    "SITE_SETTINGS",
    "AccessKeyRow",
    "AddressRow",
    "BurstRow",
    "Columns",
    "DutyRow",
    "EventRow",
    "FlavorRow",
    "GatewayRow",
    "HostRow",
    "ImageRow",
    "KeyPairRow",
    "LabelRow",
    "Labelled",
    "MetaRow",
    "NICRow",
    "NetworkRow",
    "OperationRow",
    "PeerRow",
    "PolicyRow",
    "ProjectRow",
    "RealisationRow",
    "RequestRow",
    "ReservationRow",
    "Row",
    "SiteRow",
    "Store",
    "StoreError",
    "SubnetRow",
    "TokenRow",
    "UsageMonthRow",
    "UsageRow",
    "VMRow",
    "image_name",
    "listed",
    "paired",
]
