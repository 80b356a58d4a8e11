"""The user data that takes a burst VM into its private networks at its first boot.

The script runs under any POSIX shell (busybox ash, dash) and needs ``wg``, ``ip`` and curl or wget, but no
TLS. A VM has one end of a tunnel for each of its networks, each with a gateway, interface, address and key of its
own, and enrols at one after the other: it brings WireGuard up under the launch's bootstrap key, posts the VM's own
fresh public key to the gateway inside the tunnel, and goes on under its own key alone. What it promises:

- The VM's private keys are made on the VM and never leave it. They are on disk before they are posted, so that
  a lost answer is asked for again under the same key.
- A bootstrap key is written to ``/run`` only, and removed once it has served.
- Running it again, and a reboot, bring the tunnels up under the VM's own keys. A disk cloned to another
  launch does not: the clone makes keys of its own.
- ``/run/isthmus/enrolled`` exists and the console says ``isthmus: enrolled as ADDRESS...`` when all is done.

The script is kept short because EC2 takes 16 KiB of user data, the user's own included.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from vpn import keys
from vpn.plan import DEFAULT_MTU, ENROLMENT_PORT, LINK_ADDRESS

STATE_DIR = "/var/lib/isthmus"
RUN_DIR = "/run/isthmus"
GUEST_INTERFACE = "isthmus0"
KEEPALIVE_S = 25
"""Below the UDP timeout of common NATs (30 s; RFC 4787 asks for 120 s at least)."""
TRIES = 60
"""With pauses of 1, 2, 4, 8 and then 15 seconds: about as long as the bootstrap key lives."""

_TEMPLATE = r"""#!/bin/sh
# Isthmus: joins this machine to its private networks. May run again at any time.
umask 077
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
S=@STATE@ R=@RUN@ L='@LAUNCH@'
say() { { echo "isthmus: $*" >/dev/console; } 2>/dev/null || echo "isthmus: $*"; }
fail() { say "cannot join: $*"; exit 1; }
command -v wg >/dev/null || fail 'wg is missing, the image needs wireguard-tools'
mkdir -p $S $R
if [ "$(cat $S/launch 2>/dev/null)" != "$L" ]; then
  for I in isthmus0 @INTERFACES@ $(cat $S/interfaces 2>/dev/null); do ip link del $I 2>/dev/null; done
  rm -rf $S/* $R/enrolled
  echo @INTERFACES@ >$S/interfaces
  echo "$L" >$S/launch
fi
cat >$S/up <<'UP'
#!/bin/sh
# up [DIR [KEYFILE ADDRESS ALLOWED_IPS]]: one tunnel or all, by default as enrolled
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"
if [ $# = 0 ]; then
  E=0
  for D in @DIRS@; do sh $0 $D || E=1; done
  [ $E = 0 ] && mkdir -p @RUN@ && : >@RUN@/enrolled
  exit
fi
D=$1
[ $# = 4 ] || set -- $D $D/wg.key $(cat $D/conf)
[ $# = 4 ] || exit 1
read -r I G E M <$D/gateway
modprobe wireguard 2>/dev/null
ip link show dev $I >/dev/null 2>&1 || ip link add $I type wireguard 2>/dev/null ||
  wireguard-go $I >/dev/null 2>&1 || exit 1
wg set $I private-key $2 peer $G endpoint $E persistent-keepalive @KEEPALIVE@ allowed-ips $4 || exit 1
ip addr add $3/32 dev $I 2>/dev/null
ip link set dev $I mtu $M up || exit 1
for net in $(echo $4 | tr , ' '); do ip route replace $net dev $I src $3 || exit 1; done
UP
post() {
  if command -v curl >/dev/null; then
    curl -sf -m 15 -H 'Content-Type: application/json' -d "$1" @URL@
  else
    timeout 15 wget -q -O - --header 'Content-Type: application/json' --post-data "$1" @URL@
  fi
}
field() { printf %s "$A" | sed -n 's/.*"'$1'":"\([0-9.,/]*\)".*/\1/p'; }
# enrol BOOTSTRAP_KEY BOOTSTRAP_ADDRESS: go from the launch's key to one's own
enrol() {
  [ -s $D/wg.key ] || { wg genkey >$D/new && mv $D/new $D/wg.key; } || fail "cannot write $D"
  P=$(wg pubkey <$D/wg.key) || fail "$D/wg.key is no key"
  n=0 pause=1
  while :; do
    echo $1 >$R/key
    # The answer to the post comes back through this tunnel: the route moves from the one before.
    if sh $S/up $D $R/key $2 @LINK@/32; then
      A=$(post '{"public_key":"'$P'"}') a=$(field address) i=$(field allowed_ips)
      [ -n "$a" ] && [ -n "$i" ] && break
    fi
    n=$((n + 1))
    [ $n -lt @TRIES@ ] || { rm -f $R/key; fail "no answer from the gateway $E"; }
    sleep $pause
    pause=$((pause * 2)); [ $pause -le 15 ] || pause=15
  done
  rm -f $R/key
  echo "$a $i" >$D/new && mv $D/new $D/conf
  # The peer is made anew, so that its keepalive shakes hands under the new key at once.
  wg set $I private-key $D/wg.key peer $G remove
  ip addr flush dev $I
}
# join DIR INTERFACE GATEWAY ENDPOINT MTU BOOTSTRAP_KEY BOOTSTRAP_ADDRESS: one end of a tunnel
join() {
  D=$1 I=$2 G=$3 E=$4
  mkdir -p $D
  echo "$I $G $E $5" >$D/gateway
  { [ -s $D/wg.key ] && [ -s $D/conf ]; } || enrol $6 $7
  sh $S/up $D || fail 'the tunnel does not come up'
  read -r a _ <$D/conf
  all="$all $a"
}
@JOINS@
if [ -d /run/systemd/system ] && [ ! -e /etc/systemd/system/isthmus-tunnel.service ]; then
  cat >/etc/systemd/system/isthmus-tunnel.service <<UNIT
[Unit]
Description=Isthmus private network
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh $S/up
Restart=on-failure
RestartSec=5
[Install]
WantedBy=multi-user.target
UNIT
  chmod 644 /etc/systemd/system/isthmus-tunnel.service
  systemctl daemon-reload && systemctl enable -q isthmus-tunnel.service
fi
: >$R/enrolled
say "enrolled as$all"
"""

_SHORT = re.sub(r"(?m)^ *# (?!Isthmus:).*\n|^ +", "", _TEMPLATE)
"""Without comments and indentation: each byte is one less for the user."""

_ENDPOINT = re.compile(r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})$")
_PATH = re.compile(r"^(/[A-Za-z0-9._-]+)+$")
_INTERFACE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,14}$")
_LONGEST_ADDRESS = "169.254.127.254"
_LARGEST_MTU = 65535


@dataclass(frozen=True)
class End:
    """One end of a tunnel: a launch's bootstrap key and address, and the gateway that it is good for.

    ``endpoint`` is the gateway's ``HOST:PORT``; ``mtu`` of the tunnel in bytes.
    """

    bootstrap_private_key: str
    bootstrap_public_key: str
    bootstrap_address: str
    gateway_public_key: str
    endpoint: str
    mtu: int = DEFAULT_MTU
    interface: str = GUEST_INTERFACE


def interface_of(number: int) -> str:
    """The guest's interface of its first (0), second... tunnel."""
    return f"{GUEST_INTERFACE.rstrip('0')}{number}"


def script(
    *ends: End,
    link_address: str = LINK_ADDRESS,
    port: int = ENROLMENT_PORT,
    state_dir: str = STATE_DIR,
    run_dir: str = RUN_DIR,
    tries: int = TRIES,
) -> str:
    """The shell script that enrols at each of these gateways, in this order.

    The bootstrap public keys name the launch. Raises ValueError for a value that is not of its form:
    nothing else gets into the script, so no text of a user is ever read by the shell. Two ends may share neither
    interface nor gateway.
    """
    if not ends:
        raise ValueError("a script without an end of a tunnel joins nothing")
    for end in ends:
        _check(end)
    for name in ("interface", "gateway_public_key", "endpoint", "bootstrap_public_key"):
        if len({getattr(end, name) for end in ends}) < len(ends):
            raise ValueError(f"two ends have the same {name}")
    for path in (state_dir, run_dir):
        if not _PATH.fullmatch(path):
            raise ValueError(f"{path!r} is not an absolute path of plain characters")
    link = IPv4Address(link_address)
    # The first is where 0.1.0 has its only one.
    dirs = [state_dir if number == 0 else f"{state_dir}/{number}" for number in range(len(ends))]
    values = {
        "STATE": state_dir,
        "RUN": run_dir,
        "DIRS": " ".join(dirs),
        "INTERFACES": " ".join(end.interface for end in ends),
        "LAUNCH": " ".join(end.bootstrap_public_key for end in ends),
        "KEEPALIVE": str(KEEPALIVE_S),
        "URL": f"http://{link}:{int(port)}/v1/enrol",
        "LINK": str(link),
        "TRIES": str(int(tries)),
        "JOINS": "\n".join(_join(directory, end) for directory, end in zip(dirs, ends, strict=True)),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], _SHORT)


def sample(endpoints: Sequence[str]) -> str:
    """A script for gateways at these endpoints that is as long as any: to see whether user data has room for it.

    Raises ValueError for endpoints that one VM cannot have all.
    """

    def key(number: int) -> str:
        return base64.b64encode(number.to_bytes(keys.KEY_BYTES, "big")).decode("ascii")

    return script(
        *(
            End(
                bootstrap_private_key=key(3 * number),
                bootstrap_public_key=key(3 * number + 1),
                bootstrap_address=_LONGEST_ADDRESS,
                gateway_public_key=key(3 * number + 2),
                endpoint=endpoint,
                mtu=_LARGEST_MTU,
                interface=interface_of(number),
            )
            for number, endpoint in enumerate(endpoints)
        )
    )


def _join(directory: str, end: End) -> str:
    address = IPv4Address(end.bootstrap_address)
    return (
        f"join {directory} {end.interface} '{end.gateway_public_key}' '{end.endpoint}' {int(end.mtu)} "
        f"'{end.bootstrap_private_key}' {address}"
    )


def _check(end: End) -> None:
    for name in ("bootstrap_private_key", "bootstrap_public_key", "gateway_public_key"):
        if not keys.is_key(getattr(end, name)):
            raise ValueError(f"{name} is not a WireGuard key")
    match = _ENDPOINT.fullmatch(end.endpoint)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"endpoint {end.endpoint!r} is not HOST:PORT")
    if not _INTERFACE.fullmatch(end.interface):
        raise ValueError(f"interface {end.interface!r} is not a name of up to 15 letters, digits, - and _")
