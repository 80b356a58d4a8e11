"""The user data that takes a burst VM into the private network at its first boot.

The script runs under any POSIX shell (busybox ash, dash) and needs ``wg``, ``ip`` and curl or wget, but no
TLS. It brings WireGuard up under the launch's bootstrap key, posts the VM's own fresh public key to the
gateway inside the tunnel, and goes on under its own key alone. What it promises:

- The VM's private key is made on the VM and never leaves it. It is on disk before it is posted, so that
  a lost answer is asked for again under the same key.
- The bootstrap key is written to ``/run`` only, and removed once it has served.
- Running it again, and a reboot, bring the tunnel up under the VM's own key. A disk cloned to another
  launch does not: the clone makes a key of its own.
- ``/run/isthmus/enrolled`` exists and the console says ``isthmus: enrolled as ADDRESS`` when it is done.

The script is kept short because EC2 takes 16 KiB of user data, the user's own included.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from vpn.keys import is_key
from vpn.plan import DEFAULT_MTU, ENROLMENT_PORT, LINK_ADDRESS

STATE_DIR = "/var/lib/isthmus"
RUN_DIR = "/run/isthmus"
GUEST_INTERFACE = "isthmus0"
KEEPALIVE_S = 25
"""Below the UDP timeout of common NATs (30 s; RFC 4787 asks for 120 s at least)."""
TRIES = 60
"""With pauses of 1, 2, 4, 8 and then 15 seconds: about as long as the bootstrap key lives."""

_TEMPLATE = r"""#!/bin/sh
# Isthmus: joins this machine to its private network. May run again at any time.
umask 077
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
D=@STATE@ R=@RUN@ I=@INTERFACE@ L='@LAUNCH@'
say() { { echo "isthmus: $*" >/dev/console; } 2>/dev/null || echo "isthmus: $*"; }
fail() { say "cannot join: $*"; exit 1; }
command -v wg >/dev/null || fail 'wg is missing, the image needs wireguard-tools'
mkdir -p $D $R
if [ "$(cat $D/launch 2>/dev/null)" != "$L" ]; then
  rm -f $D/wg.key $D/conf $R/enrolled
  ip link del $I 2>/dev/null
  echo "$L" >$D/launch
fi
cat >$D/up <<'UP'
#!/bin/sh
# up [KEYFILE ADDRESS ALLOWED_IPS]: the tunnel, by default as enrolled
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/bin"
[ $# = 3 ] || set -- @STATE@/wg.key $(cat @STATE@/conf)
[ $# = 3 ] || exit 1
I=@INTERFACE@
modprobe wireguard 2>/dev/null
ip link show dev $I >/dev/null 2>&1 || ip link add $I type wireguard 2>/dev/null ||
  wireguard-go $I >/dev/null 2>&1 || exit 1
wg set $I private-key $1 peer '@GATEWAY@' endpoint '@ENDPOINT@' \
  persistent-keepalive @KEEPALIVE@ allowed-ips $3 || exit 1
ip addr add $2/32 dev $I 2>/dev/null
ip link set dev $I mtu @MTU@ up || exit 1
for net in $(echo $3 | tr , ' '); do ip route replace $net dev $I src $2 || exit 1; done
[ $1 != @STATE@/wg.key ] || { mkdir -p @RUN@ && : >@RUN@/enrolled; }
UP
finish() {
  sh $D/up || fail 'the tunnel does not come up'
  read -r a _ <$D/conf
  say "enrolled as $a"
  exit 0
}
[ -s $D/wg.key ] && [ -s $D/conf ] && finish
[ -s $D/wg.key ] || { wg genkey >$D/new && mv $D/new $D/wg.key; } || fail "cannot write $D"
P=$(wg pubkey <$D/wg.key) || fail "$D/wg.key is no key"
post() {
  if command -v curl >/dev/null; then
    curl -sf -m 15 -H 'Content-Type: application/json' -d "$1" @URL@
  else
    timeout 15 wget -q -O - --header 'Content-Type: application/json' --post-data "$1" @URL@
  fi
}
field() { printf %s "$A" | sed -n 's/.*"'$1'":"\([0-9.,/]*\)".*/\1/p'; }
n=0 pause=1
while :; do
  echo '@BOOTSTRAP@' >$R/key
  if sh $D/up $R/key @ADDRESS@ @LINK@/32; then
    A=$(post '{"public_key":"'$P'"}') a=$(field address) i=$(field allowed_ips)
    [ -n "$a" ] && [ -n "$i" ] && break
  fi
  n=$((n + 1))
  [ $n -lt @TRIES@ ] || { rm -f $R/key; fail "no answer from the gateway @ENDPOINT@"; }
  sleep $pause
  pause=$((pause * 2)); [ $pause -le 15 ] || pause=15
done
rm -f $R/key
echo "$a $i" >$D/new && mv $D/new $D/conf
# The peer is made anew, so that its keepalive shakes hands under the new key at once.
wg set $I private-key $D/wg.key peer '@GATEWAY@' remove
ip addr flush dev $I
if [ -d /run/systemd/system ]; then
  cat >/etc/systemd/system/isthmus-tunnel.service <<UNIT
[Unit]
Description=Isthmus private network
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh $D/up
Restart=on-failure
RestartSec=5
[Install]
WantedBy=multi-user.target
UNIT
  chmod 644 /etc/systemd/system/isthmus-tunnel.service
  systemctl daemon-reload && systemctl enable -q isthmus-tunnel.service
fi
finish
"""

_ENDPOINT = re.compile(r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})$")
_PATH = re.compile(r"^(/[A-Za-z0-9._-]+)+$")
_INTERFACE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,14}$")


def script(
    *,
    bootstrap_private_key: str,
    bootstrap_public_key: str,
    bootstrap_address: str,
    gateway_public_key: str,
    endpoint: str,
    link_address: str = LINK_ADDRESS,
    port: int = ENROLMENT_PORT,
    mtu: int = DEFAULT_MTU,
    interface: str = GUEST_INTERFACE,
    state_dir: str = STATE_DIR,
    run_dir: str = RUN_DIR,
    tries: int = TRIES,
) -> str:
    """The shell script. ``endpoint`` is the gateway's ``HOST:PORT``; ``mtu`` of the tunnel in bytes.

    The bootstrap public key names the launch. Raises ValueError for a value that is not of its form:
    nothing else gets into the script, so no text of a user is ever read by the shell.
    """
    for name, key in (
        ("bootstrap_private_key", bootstrap_private_key),
        ("bootstrap_public_key", bootstrap_public_key),
        ("gateway_public_key", gateway_public_key),
    ):
        if not is_key(key):
            raise ValueError(f"{name} is not a WireGuard key")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"endpoint {endpoint!r} is not HOST:PORT")
    if not _INTERFACE.fullmatch(interface):
        raise ValueError(f"interface {interface!r} is not a name of up to 15 letters, digits, - and _")
    for path in (state_dir, run_dir):
        if not _PATH.fullmatch(path):
            raise ValueError(f"{path!r} is not an absolute path of plain characters")
    link = IPv4Address(link_address)
    values = {
        "STATE": state_dir,
        "RUN": run_dir,
        "INTERFACE": interface,
        "LAUNCH": bootstrap_public_key,
        "GATEWAY": gateway_public_key,
        "ENDPOINT": endpoint,
        "KEEPALIVE": str(KEEPALIVE_S),
        "MTU": str(int(mtu)),
        "URL": f"http://{link}:{int(port)}/v1/enrol",
        "BOOTSTRAP": bootstrap_private_key,
        "ADDRESS": str(IPv4Address(bootstrap_address)),
        "LINK": str(link),
        "TRIES": str(int(tries)),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], _TEMPLATE)
