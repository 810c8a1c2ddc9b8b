#!/bin/sh
# Sends what is asked of the network's resolver to the port of the host where ours listens.
set -eu

[ "$LIMA_CIDATA_UDP_DNS_LOCAL_PORT" -ne 0 ] || exit 0

redirect() { # chain, protocol, port
	rule="-d $LIMA_CIDATA_SLIRP_DNS -p $2 --dport 53 -j DNAT --to-destination $LIMA_CIDATA_SLIRP_GATEWAY:$3"
	# shellcheck disable=SC2086
	iptables -t nat -C "$1" $rule 2>/dev/null || iptables -t nat -A "$1" $rule
}

for chain in PREROUTING OUTPUT; do
	redirect "$chain" udp "$LIMA_CIDATA_UDP_DNS_LOCAL_PORT"
	redirect "$chain" tcp "$LIMA_CIDATA_TCP_DNS_LOCAL_PORT"
done
