# Shell functions for the steps of the scenario "containers". The disk is mounted at $EXTRA.

EXTRA=/opt/containers
export PATH=$EXTRA/usr/bin:$EXTRA/usr/sbin:$PATH
CNI=$EXTRA/usr/lib/cni
BUSYBOX=localhost/busybox:latest

# A container's mount of the guest's cgroups, and a published port for CNI.
CGROUPS=type=bind,src=/sys/fs/cgroup,dst=/sys/fs/cgroup,options=rbind:ro
PORTS='[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]'

# await SECONDS COMMAND...: runs the command again and again until it succeeds.
await() {
    local end=$((SECONDS + $1)) said
    shift
    until said=$("$@" 2>&1); do
        if [ $SECONDS -ge $end ]; then
            echo "$said"
            echo "gave up: $*"
            return 1
        fi
        sleep 0.2
    done
}

# fail TEXT...: ends the step; the text is its reason.
fail() {
    echo "$*"
    exit 1
}

# ask COMMAND...: runs the command and keeps what it says in $said, or fails with it.
ask() {
    said=$("$@" 2>&1) || fail "$said"
}

# expect TEXT GOT: fails unless GOT contains TEXT. GOT is shown once, however often it is asked about.
expect() {
    [ "$2" = "${shown:-}" ] || echo "$2"
    shown=$2
    case $2 in
        *"$1"*) ;;
        *) fail "the answer lacks \"$1\"" ;;
    esac
}

# create MODE NAME [OPTION...] -- COMMAND...: runs a container with ctr's option MODE and more of them.
create() {
    local mode=$1 name=$2 options=()
    shift 2
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    ctr run "$mode" "${options[@]}" "$BUSYBOX" "$name" "$@"
}

# run NAME [OPTION...] -- COMMAND...: runs a container in the foreground and removes it afterwards.
run() {
    create --rm "$@"
}

# start NAME [OPTION...] -- COMMAND...: starts a container in the background.
start() {
    create --detach "$@"
}

# inside NAME COMMAND...: runs a command in a running container.
inside() {
    local name=$1
    shift
    ctr task exec --exec-id "exec-$$-$RANDOM" "$name" "$@"
}

# limited NAME [OPTION...] -- SCRIPT: runs a script in a container, in the folder of its cgroup, which
# systemd has made.
limited() {
    local script=${*: -1}
    run "$1" --runc-systemd-cgroup --cgroup "system.slice:contract:$1" --mount "$CGROUPS" \
        --cwd "/sys/fs/cgroup/system.slice/contract-$1.scope" "${@:2:$#-2}" sh -c "$script"
}

# plugin ADD|DEL NAME PLUGIN CONFIG: calls a CNI plugin for the network namespace NAME.
plugin() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=$CNI \
        "$CNI/$3" <<< "{\"cniVersion\": \"1.0.0\", \"name\": \"contract\", \"type\": \"$3\", $4}"
}

BRIDGE='"bridge": "contract0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "10.4.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}'

# portmap PORTS: the plugin's configuration. PORTS is the JSON of CNI's portMappings.
portmap() {
    echo "\"capabilities\": {\"portMappings\": true}, \"runtimeConfig\": {\"portMappings\": $1}"
}

# connect NAME [PORTS]: makes a network namespace and connects it to a bridge, as nerdctl does.
connect() {
    local name=$1 ports=${2:-} result
    ip netns add "$name"
    result=$(plugin ADD "$name" bridge "$BRIDGE") || fail "$result"
    [ -z "$ports" ] ||
        plugin ADD "$name" portmap "$(portmap "$ports"), \"prevResult\": $result" > "/run/$name.json" ||
        fail "$(cat "/run/$name.json")"
    plugin ADD "$name" firewall "\"prevResult\": $result" > "/run/$name.json" ||
        fail "$(cat "/run/$name.json")"
}

# disconnect NAME [PORTS]: undoes what connect has done.
disconnect() {
    local name=$1 ports=${2:-} result
    result=$(cat "/run/$name.json")
    plugin DEL "$name" firewall "\"prevResult\": $result"
    [ -z "$ports" ] || plugin DEL "$name" portmap "$(portmap "$ports"), \"prevResult\": $result"
    plugin DEL "$name" bridge "$BRIDGE"
    ip netns delete "$name"
}

# address NAME: the IPv4 address of a connected container.
address() {
    ip -n "$1" -4 -oneline address show eth0 | sed 's/.*inet \([0-9.]*\).*/\1/'
}

# rootless COMMAND...: runs a command in the namespaces of the user's containerd, as their root.
rootless() {
    nsenter --preserve-credentials --user --mount --net --pid --cgroup \
        --target "$(cat "$XDG_RUNTIME_DIR/rootlesskit/child_pid")" "$@"
}
